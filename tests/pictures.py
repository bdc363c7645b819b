"""Makes images for tests and benchmarks with Pillow. Those of a seed are the same each time."""

import io
import random
import site
from pathlib import Path

from PIL import Image, ImageDraw


def encode(image: Image.Image, kind: str, **options) -> bytes:
    """The file that Pillow writes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def picture(kind: str = "PNG", size: tuple[int, int] = (32, 24), **options) -> bytes:
    """A small file of any accepted format. It is noise, so a larger size makes a larger file."""
    return encode(Image.effect_noise(size, 40).convert("RGB"), kind, **options)


def plain(kind: str = "PNG", size: tuple[int, int] = (8, 6), **options) -> bytes:
    """A picture of one colour: the same bytes each time."""
    return encode(Image.new("RGB", size, "teal"), kind, **options)


def padded(kind: str, length: int) -> bytes:
    """A file of ``length`` bytes, most of them after the end of the image, as some cameras do."""
    file = picture(kind)
    return file + random.Random(1).randbytes(length - len(file))


def mpo() -> bytes:
    """A JPEG with a second picture after its end, as phones write it."""
    frames = [Image.effect_noise((64, 48), 30).convert("RGB") for _ in range(2)]
    return encode(frames[0], "MPO", save_all=True, append_images=frames[1:])


def animated(kind: str) -> bytes:
    """An animation of three frames."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def photo(width: int, height: int, mode: str = "RGB", seed: int = 1) -> Image.Image:
    """A picture with soft shapes and some grain, like a photo."""
    rng = random.Random(seed)
    grid = max(width // 16, 2), max(height // 16, 2)
    soft = Image.frombytes("RGB", grid, rng.randbytes(grid[0] * grid[1] * 3))
    image = soft.resize((width, height), Image.Resampling.BICUBIC)
    noise = Image.frombytes("L", (width, height), rng.randbytes(width * height))
    grain = noise.point([128 + (level - 128) // 6 for level in range(256)]).convert("RGB")
    return Image.blend(image, grain, 0.1).convert(mode)


def drawing(width: int, height: int, mode: str = "RGBA", step: int = 0) -> Image.Image:
    """Flat shapes, partly transparent where the mode has it."""
    image = Image.new("RGBA", (width, height), (250, 250, 240, 255))
    pen = ImageDraw.Draw(image)
    pen.ellipse((step, step, width // 2 + step, height // 2 + step), fill=(200, 30, 30, 128))
    pen.rectangle((width // 3, height // 3, width, height), fill=(20, 60, 200, 255))
    return image.convert(mode)


def installed() -> list[Path]:
    """The image files in the installed packages, for tests with real images."""
    kinds = (".png", ".jpg", ".jpeg", ".gif", ".webp")
    folders = [Path(folder) for folder in site.getsitepackages()]
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix in kinds]
    return [path for path in found if path.stat().st_size]
