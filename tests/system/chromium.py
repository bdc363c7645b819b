"""Real Chromium, with the upload page in it: files to upload, and results to read."""

import re
import shutil
from contextlib import contextmanager

from playwright.sync_api import expect, sync_playwright

from tests.pictures import picture

expect.set_options(timeout=15_000)  # in ms; Playwright's 5 s are too short on a busy machine

# Chromium's sandbox does not work for root, nor in most containers. The others keep Chromium from
# asking servers of its own while a test watches which addresses the page asks.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
CLIPBOARD = ["clipboard-read", "clipboard-write"]
PNG = {"name": "photo.png", "mimeType": "image/png", "buffer": picture()}
CUT = {"name": "cut.png", "mimeType": "image/png", "buffer": picture()[:-50]}
TEXT = {"name": "notes.png", "mimeType": "image/png", "buffer": b"just words"}


@contextmanager
def chromium():
    """A browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


def clipboard(page):
    """The text in the clipboard."""
    return page.evaluate("navigator.clipboard.readText()")


def ready(open_page, api_key, **options):
    """The upload page with a key in its field."""
    page = open_page(**options)
    page.get_by_label(re.compile("API")).fill(api_key())
    return page


def stored(page, number=0):
    """The key of a stored file, by its number in the list, once the page shows it."""
    code = page.locator("#uploads .stored").nth(number)
    expect(code).to_have_text(re.compile(r"^uploads/.{36}\.png$"))
    return code.text_content()
