"""Chromium as the judge of pictures: what it shows of a file, frame by frame."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
_BATCH = 4_000_000
_TYPES = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"GI": "image/gif", b"RI": "image/webp"}

_SHOW = """async (files) => {
  const shown = [];
  for (const { text, type } of files) {
    const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
    const verdict = { width: 0, height: 0, frames: 0, announced: 0, error: "" };
    try {
      const options = { imageOrientation: "none" };
      const bitmap = await createImageBitmap(new Blob([bytes], { type }), options);
      [verdict.width, verdict.height] = [bitmap.width, bitmap.height];
      const decoder = new ImageDecoder({ data: bytes, type });
      await decoder.tracks.ready;
      await decoder.completed;
      verdict.announced = decoder.tracks.selectedTrack.frameCount;
      if (Math.max(bitmap.width, bitmap.height) > 32767) {  // no VideoFrame is larger
        verdict.frames = verdict.announced;
      }
      while (verdict.frames < verdict.announced) {
        (await decoder.decode({ frameIndex: verdict.frames })).image.close();
        verdict.frames += 1;
      }
      decoder.close();
    } catch (error) {
      verdict.error = String(error);
    }
    shown.push(verdict);
  }
  return shown;
}"""


_PIXELS = """async ([text, type]) => {
  const url = `data:${type};base64,${text}`;
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const decoder = new ImageDecoder({ data: bytes, type });
  await decoder.tracks.ready;
  await decoder.completed;
  const frames = [];
  for (let at = 0; at < decoder.tracks.selectedTrack.frameCount; at += 1) {
    const { image: frame } = await decoder.decode({ frameIndex: at });
    const pixels = new Uint8Array(frame.allocationSize());
    await frame.copyTo(pixels);
    frames.push([frame.duration, ...new Uint8Array(await crypto.subtle.digest("SHA-256", pixels))]);
    frame.close();
  }
  return JSON.stringify([canvas.width, canvas.height, [...digest], frames]);
}"""


@contextmanager
def judge() -> Iterator[Page]:
    """A page that can look at pictures; ImageDecoder asks for a secure origin."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page()
        page.route("**/*", lambda route: route.fulfill(body="<!doctype html>"))
        page.goto("https://judge.test/")
        yield page
        browser.close()


def shown(page: Page, files: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """What Chromium shows of each file: width, height, frames and the error, if any."""
    batch: list[dict[str, str]] = []
    size = 0
    for data in files:
        batch.append({"text": base64.b64encode(data).decode(), "type": _type(data)})
        size += len(data)
        if size > _BATCH:
            yield from page.evaluate(_SHOW, batch)
            batch, size = [], 0
    yield from page.evaluate(_SHOW, batch)


def judged(
    page: Page, files: dict[str, bytes], folder: Path
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (name, verdicts of the gate by check, what Chromium shows) of each file."""
    for number, data in enumerate(files.values()):
        (folder / f"{number:06}").write_bytes(data)
    command = [sys.executable, "-m", "tests.image.verdicts", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    verdicts = json.loads(done.stdout).values()
    return zip(files, verdicts, shown(page, files.values()), strict=True)


def all_shown(size: list[int], seen: dict) -> bool:
    """Whether every frame is shown in that size, upright or turned by its EXIF orientation."""
    sides = [size[:2], size[1::-1]]
    return (
        not seen["error"] and [seen["width"], seen["height"]] in sides and seen["frames"] == size[2]
    )


def pixels_shown(page: Page, data: bytes) -> str:
    """What Chromium shows of a picture, as JSON: size and pixels, turned, and every frame."""
    text = base64.b64encode(data).decode()
    return page.evaluate(_PIXELS, [text, _type(data)])


def _type(data: bytes) -> str:
    return _TYPES.get(bytes(data[:2]), "image/png")
