"""The upload page in real Chromium: files to give it, and what to read from it."""

import re

from playwright.sync_api import expect

from tests.pictures import picture

expect.set_options(timeout=15_000)  # a busy machine is slow
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
CLIPBOARD = ["clipboard-read", "clipboard-write"]
PNG = {"name": "photo.png", "mimeType": "image/png", "buffer": picture()}
CUT = {"name": "cut.png", "mimeType": "image/png", "buffer": picture()[:-50]}
TEXT = {"name": "notes.png", "mimeType": "image/png", "buffer": b"just words"}


def clipboard(page):
    return page.evaluate("navigator.clipboard.readText()")


def ready(open_page, api_key, **options):
    page = open_page(**options)
    page.get_by_label(re.compile("API")).fill(api_key())
    return page


def stored(page, number=0):
    code = page.locator("#uploads .stored").nth(number)
    expect(code).to_have_text(re.compile(r"^uploads/.{36}\.png$"))
    return code.text_content()
