"""Takes the README's screenshots of a running service: python docs/screenshots.py URL API_KEY."""

import colorsys
import io
import random
import shutil
import sys
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
SUBJECTS = ["harbour at dusk", "garden, north side", "cover draft", "portrait A. Lind", "old town"]
CUT, WORDS = 4, 7
"""The numbers of the two files that are refused: one is cut off, one is text."""


def picture(seed: int) -> bytes:
    """A landscape in two colours of one hue."""
    number = random.Random(seed)  # noqa: S311
    hue = number.random()
    tints = [colorsys.hls_to_rgb(hue, *each) for each in ((0.75, 0.4), (0.35, 0.45))]
    sky, ground = (tuple(int(255 * part) for part in tint) for tint in tints)
    image = Image.new("RGB", (800, 600), sky)
    hill = [(0, 420), (number.randrange(200, 600), 180), (800, 460), (800, 600), (0, 600)]
    ImageDraw.Draw(image).polygon(hill, ground)
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def files() -> list[dict[str, object]]:
    """Fourteen files, for ``set_input_files``."""
    made = []
    for number in range(14):
        content = picture(number)
        content = content[: len(content) // 2] if number == CUT else content
        content = b"just words" if number == WORDS else content
        name = f"{SUBJECTS[number % len(SUBJECTS)]} {number + 1:02}.jpg"
        made.append({"name": name, "mimeType": "image/jpeg", "buffer": content})
    return made


def upload_page(page: Page, url: str, api_key: str) -> None:
    """Take the upload page with a batch in which two files need attention."""
    page.goto(url)
    page.locator("#key").fill(api_key)
    page.set_input_files("#files", files())
    page.locator(".upload.good").nth(11).wait_for()
    page.locator(".upload.bad").nth(1).wait_for()
    page.locator("#key").blur()
    page.wait_for_timeout(1000)  # the last previews are drawn, and the bar stops
    page.screenshot(path=IMAGES / "upload-page.png")


def reference(page: Page, url: str) -> None:
    """Take the top of the API reference."""
    page.goto(f"{url}/docs")
    page.screenshot(path=IMAGES / "reference.png")


def main() -> None:
    """Take both, 1,280 pixels wide."""
    url, api_key = sys.argv[1:]
    flags = ["--no-sandbox", "--disable-gpu"]
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        upload_page(page, url, api_key)
        reference(page, url)
        browser.close()


if __name__ == "__main__":
    main()
