"""Chromium as the judge of image files: which frames it shows of a file, and in which size."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.system.chromium import chromium

ROOT = Path(__file__).resolve().parents[2]

_BATCH = 4_000_000
"""Bytes of files for one call: a call per file takes longer, and one for all needs much memory."""
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
    """A page in which ``shown`` can decode files."""
    with chromium() as browser:
        page = browser.new_page()
        # An https address that the test answers itself: browsers offer ImageDecoder only in a
        # secure context (WebCodecs).
        page.route("**/*", lambda route: route.fulfill(body="<!doctype html>"))
        page.goto("https://judge.test/")
        yield page


def shown(page: Page, files: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield for each file its width, height and frames in Chromium, and the error, if any."""
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
    """Yield for each file: its name, the gate's verdicts by IMAGE_CHECK, the result of ``shown``.

    The gate runs in another process: the tests of this folder do not import the service.
    """
    for number, data in enumerate(files.values()):
        (folder / f"{number:06}").write_bytes(data)
    command = [sys.executable, "-m", "tests.image.verdicts", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    verdicts = json.loads(done.stdout).values()
    return zip(files, verdicts, shown(page, files.values()), strict=True)


def all_shown(size: list[int], seen: dict) -> bool:
    """Whether Chromium shows every frame in the size that the gate found.

    ``size`` is width, height and frames. The sides may be swapped, by the EXIF orientation.
    """
    sides = [size[:2], size[1::-1]]
    return (
        not seen["error"] and [seen["width"], seen["height"]] in sides and seen["frames"] == size[2]
    )


def pixels_shown(page: Page, data: bytes) -> str:
    """What Chromium shows of a file, as JSON: size and hash of the image as turned, and frames."""
    text = base64.b64encode(data).decode()
    return page.evaluate(_PIXELS, [text, _type(data)])


def _type(data: bytes) -> str:
    return _TYPES.get(bytes(data[:2]), "image/png")
