"""Pictures that compress like photos of cameras: smooth shapes with noise."""

import bisect
import io

from PIL import Image, ImageChops


def photo(width, height):
    """An RGB picture whose JPEG has about two bits for each pixel."""
    bands = []
    for turn in range(3):
        shape = Image.radial_gradient("L").rotate(40 * turn).resize((width, height))
        noise = Image.effect_noise((width // 2, height // 2), 38).resize((width, height))
        bands.append(ImageChops.blend(shape, noise, 0.35))
    return Image.merge("RGB", bands)


def save(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def all_photos():
    """Files by name: four baseline JPEGs, a progressive one, a PNG and a WebP."""
    sizes = {"0.16": (800, 600), "1.1": (2000, 1500), "5": (4000, 3000), "14": (6000, 4500)}
    photos = {}
    for name, (width, height) in sizes.items():
        image, target = photo(width, height), float(name) * 1e6
        photos[f"JPEG {name} MB"] = closest(image, target)
        if name == "5":
            photos["progressive JPEG 5 MB"] = closest(image, target, progressive=True)
            photos["WebP 12 MP"] = save(image, "WEBP", quality=85, method=2)
        if name == "1.1":
            photos["PNG 3 MP"] = save(image, "PNG")
    return photos


def closest(image, target, **options):
    """The JPEG of the quality that comes closest to ``target`` bytes."""
    qualities = range(30, 100)

    def size(quality):
        return len(save(image, "JPEG", quality=quality, **options))

    at = bisect.bisect(qualities, target, key=size)
    near = qualities[max(at - 1, 0) : at + 1]
    made = (save(image, "JPEG", quality=each, **options) for each in near)
    return min(made, key=lambda data: abs(len(data) - target))
