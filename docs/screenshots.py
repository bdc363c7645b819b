"""Takes the README's pictures of a running service: python docs/screenshots.py URL API_KEY."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
COLOURS = {"harbour.jpg": ("#7fb2d9", "#1d4e6b"), "garden.png": ("#cfe3a8", "#3f7d3a")}


def picture(name: str) -> bytes:
    """A landscape of two colours."""
    sky, ground = COLOURS[name]
    image = Image.new("RGB", (1600, 1200), sky)
    hill = [(0, 800), (700, 420), (1600, 900), (1600, 1200), (0, 1200)]
    ImageDraw.Draw(image).polygon(hill, ground)
    file = io.BytesIO()
    image.save(file, "JPEG" if name.endswith("jpg") else "PNG")
    return file.getvalue()


def upload_page(page: Page, url: str, api_key: str) -> None:
    """The upload page with two stored pictures and a refused one."""
    page.goto(url)
    page.locator("#key").fill(api_key)
    files = [{"name": name, "mimeType": "image/png", "buffer": picture(name)} for name in COLOURS]
    cut = {"name": "cover.jpg", "mimeType": "image/jpeg", "buffer": picture("harbour.jpg")[:9000]}
    page.set_input_files("#files", [*files, cut])
    for number in range(len(COLOURS)):
        page.locator(".upload .stored").nth(number).wait_for()
    page.locator(".upload.bad").wait_for()
    page.locator("#key").blur()
    page.screenshot(path=IMAGES / "upload-page.png", full_page=True)


def reference(page: Page, url: str) -> None:
    """The head of the API reference."""
    page.goto(f"{url}/docs")
    page.screenshot(path=IMAGES / "reference.png")


def main() -> None:
    """Both, 1,000 pixels wide."""
    url, api_key = sys.argv[1:]
    flags = ["--no-sandbox", "--disable-gpu"]
    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        upload_page(page, url, api_key)
        reference(page, url)
        browser.close()


if __name__ == "__main__":
    main()
