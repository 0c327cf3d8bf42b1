"""Pictures of any kind as a person sees them: upright, on white paper, with 256 levels."""

import numpy as np
from PIL import Image, ImageOps

DEEP = ("I", "F")  # 16 and 32 bits, whole numbers or fractions


def visible(image: Image.Image, channels: int = 3) -> Image.Image:
    """Turn a picture as its EXIF data says and make it RGB, or grey; transparent places become white.

    Args:
        image: of any mode; of an animation the first picture.
        channels: 3 for RGB, 1 for grey.

    >>> visible(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    image = ImageOps.exif_transpose(image) or image
    if image.mode.startswith(DEEP):
        image = _reduced(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return image.convert("RGB" if channels == 3 else "L")


def _reduced(image: Image.Image) -> Image.Image:
    """More than 256 levels brought down to them: from 16 bits, or fractions; else from the largest value there is."""
    values = np.asarray(image, dtype=np.float64)
    largest = float(values.max(initial=0))
    whole = 65535.0 if image.mode.startswith("I") and largest <= 65535 else 1.0 if largest <= 1 else largest
    return Image.fromarray(np.round(255 * (values / whole).clip(0, 1)).astype(np.uint8))
