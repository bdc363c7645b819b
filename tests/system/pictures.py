"""Small pictures of every accepted kind, made with Pillow."""

import io
import random

from PIL import Image


def picture(kind="PNG", size=(32, 24), **options):
    file = io.BytesIO()
    Image.effect_noise(size, 40).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def padded(kind, length):
    """A picture followed by bytes after its end, as cameras write them."""
    file = picture(kind)
    return file + random.Random(1).randbytes(length - len(file))


def mpo():
    """What phones write: a JPEG with a second picture behind it."""
    frames = [Image.effect_noise((64, 48), 30).convert("RGB") for _ in range(2)]
    file = io.BytesIO()
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    return file.getvalue()


def animated(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()
