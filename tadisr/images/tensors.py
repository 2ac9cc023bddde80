"""Images as tensors (B, C, H, W) float32 in [0, 1]: from files and Pillow's images, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..atomic_write import write_atomic
from ..errors import ImageError
from .read import read_frames
from .resample import as_float

ASPECT = 0.02  # how far apart two images' shapes may be: rounding, not another image


def read_image(path: str | Path) -> Tensor:
    """Read a file's first frame as (1, 3, h, w), or (1, 4, h, w) where it has transparency; upright, in sRGB.

    Raises ImageError for what is no image, broken, or too large to be one.
    """
    image = as_float(to_tensor(next(read_frames(path)).pixels))
    colors = image[:, :3] if image.shape[1] > 2 else image[:, :1].expand(-1, 3, -1, -1)
    return torch.cat([colors, image[:, -1:]], 1) if image.shape[1] in (2, 4) else colors.contiguous()


def to_tensor(pixels: np.ndarray[Any, Any]) -> Tensor:
    """View pixels (h, w, C) as levels (1, C, h, w) in the same memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def from_pixels(pixels: np.ndarray[Any, Any]) -> Tensor:
    """Convert pixels (h, w, C), uint8, uint16 or float in [0, 1], to a contiguous (1, C, h, w) in [0, 1]."""
    return as_float(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None])


def to_pixels(image: Tensor) -> np.ndarray[Any, Any]:
    """Convert (1, C, H, W) or (C, H, W) in [0, 1] to pixels (H, W, C) uint8, rounded."""
    levels = (image.detach().reshape(image.shape[-3:]).float().clamp(0, 1) * 255).round()
    return np.ascontiguousarray(levels.to("cpu", torch.uint8).permute(1, 2, 0).numpy())


def from_pil(image: Image.Image, name: str = "The image") -> Tensor:
    """Convert an image of any mode to (1, 3, h, w), or (1, 4, h, w) where it has transparency; its profile is ignored.

    Raises ImageError for float pixels outside 0 to 1.
    """
    if image.mode.startswith("I"):  # 16-bit grey, as PNG and TIFF have it
        return _gray(np.asarray(image, np.float32) / 65535)
    if image.mode == "F":
        values = np.asarray(image, np.float32)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ImageError(f"{name} has float pixels outside 0 to 1: bring it to 8 or 16 bits first.")
        return _gray(values)
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return from_pixels(np.array(image.convert("RGBA" if transparent else "RGB")))


def _gray(values: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(values)[None, None].clamp(0, 1).repeat(1, 3, 1, 1)


def to_pil(image: Tensor) -> Image.Image:
    """Convert (1, C, H, W) or (C, H, W), C from 1 to 4, to an 8-bit image."""
    array = to_pixels(image)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def write_png(path: str | Path, image: Tensor) -> None:
    """Write (1, C, H, W) or (C, H, W) as a PNG, whole or not at all."""
    picture = to_pil(image)
    write_atomic(Path(path), lambda temporary: picture.save(temporary, format="PNG"))


def check_aspect(first: Tensor, second: Tensor, name: str, other: str) -> None:
    """Raise ImageError if two images (B, C, H, W) differ in shape, so that they cannot lie on one another."""
    height, width = first.shape[-2:]
    rows, columns = second.shape[-2:]
    if abs(width * rows / (height * columns) - 1) > ASPECT + 1 / min(rows, columns):
        raise ImageError(
            f"The {name} is {width}x{height}, the {other} {columns}x{rows}: of another shape, so they do not lie on one "
            "another."
        )
