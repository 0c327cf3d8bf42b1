"""Tensors as small images inside the page: grey or RGB pictures, signed maps, heat laid over a picture."""

import base64
import io

import numpy as np
from jaxtyping import Float
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from cutaway.report.svg import tag

LARGEST = 160  # pixels; larger pictures are reduced, so that the page stays small
POSITIVE, NEGATIVE = (
    (230, 97, 1),
    (42, 120, 190),
)  # orange and blue: told apart by colour-blind readers
HEAT = (235, 80, 20)


def picture(image: Float[Tensor, "c h w"], alt: str) -> Markup:
    """Show an image with values in [0, 1], one channel (grey) or three (RGB).

    >>> import torch
    >>> picture(torch.zeros(1, 8, 8), "a black square")[:22]
    Markup('<img src="data:image/p')
    """
    return embed(pixels(image), alt)


def signed(values: Float[Tensor, "h w"], alt: str, largest: float | None = None) -> Markup:
    """Show a signed map: orange is positive, blue negative, nothing is zero (transparent, on light and dark alike).

    Args:
        values: the map.
        alt: what it shows, in words.
        largest: the magnitude of full colour; the map's own largest when not given.
    """
    data = values.detach().double().cpu().numpy()
    scale = largest or float(np.abs(data).max()) or 1.0
    rgba = np.zeros((*data.shape, 4), np.uint8)
    rgba[..., :3] = np.where(data[..., None] >= 0, POSITIVE, NEGATIVE)
    rgba[..., 3] = np.round(255 * np.clip(np.abs(data) / scale, 0, 1))
    return embed(rgba, alt)


def overlay(image: Float[Tensor, "c h w"], heat: Float[Tensor, "a b"], alt: str) -> Markup:
    """Lay a map of non-negative values over the image in grey, each scaled to its own largest value."""
    base = pixels(image).astype(float)
    base = base.mean(-1) if base.ndim == 3 else base
    size = max(base.shape[0], 64), max(base.shape[1], 64)
    base = resized(base, size, Image.Resampling.NEAREST)
    data = np.clip(heat.detach().double().cpu().numpy(), 0, None)
    alpha = resized(data / (data.max() or 1.0), size, Image.Resampling.BICUBIC).clip(0, 1)[..., None] * 0.85
    mixed = base[..., None] * (1 - alpha) + np.array(HEAT) * alpha
    return embed(np.round(mixed).astype(np.uint8), alt)


def pixels(image: Float[Tensor, "c h w"]) -> np.ndarray:
    """Turn an image in [0, 1] into bytes, (h, w) or (h, w, 3); other channel counts are averaged to grey."""
    data = np.round(255 * image.detach().double().clamp(0, 1).cpu().numpy()).astype(np.uint8)
    if data.shape[0] == 3:
        return np.ascontiguousarray(data.transpose(1, 2, 0))
    return data[0] if data.shape[0] == 1 else np.round(data.mean(0)).astype(np.uint8)


def resized(data: np.ndarray, size: tuple[int, int], method: Image.Resampling) -> np.ndarray:
    """Resize a map (h, w) to `size` (height, width)."""
    return np.asarray(Image.fromarray(data.astype(np.float32)).resize((size[1], size[0]), method))


def embed(data: np.ndarray, alt: str) -> Markup:
    """Make an img element that carries its bytes; small images are drawn with sharp pixels."""
    image = Image.fromarray(data)
    small = max(image.size) <= 64
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    kind = "PNG" if small or image.mode == "RGBA" else "WEBP"
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 85}))
    source = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Markup(tag("img", src=source, alt=alt, class_="pixels" if small else None).replace("</img>", ""))
