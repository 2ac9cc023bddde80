"""Pictures: files in and out, resizing, padding, alpha. Tensors are (B, C, H, W) float32 in [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .atomic_write import write_atomic
from .config import SCALE
from .errors import ImageError

ASPECT = 0.02  # how far apart two pictures' shapes may be: rounding, not another picture
MARGIN = 4  # LR pixels beyond a window that bicubic's two-pixel reach needs, and some


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing to (H, W), clamped to [0, 1]."""
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Size of the result at a magnification, never empty."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def crop_upscaled(lr: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """The window of `resize(lr, x4)` over LR rows top..top+height and columns left..left+width, made from it alone.

    lr (B, C, h, w) -> (B, C, 4 height, 4 width): what a whole resize would give there, at the picture's borders too.
    """
    y0, x0 = max(0, top - MARGIN), max(0, left - MARGIN)
    y1, x1 = min(lr.shape[2], top + height + MARGIN), min(lr.shape[3], left + width + MARGIN)
    piece = resize(lr[..., y0:y1, x0:x1], ((y1 - y0) * SCALE, (x1 - x0) * SCALE))
    y, x = (top - y0) * SCALE, (left - x0) * SCALE
    return piece[..., y : y + height * SCALE, x : x + width * SCALE]


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edges until both sides are multiples. (B, C, H, W) -> (B, C, H', W')."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Colours (B, 3, h, w), grey repeated, and the alpha (B, 1, h, w) of pictures with 2 or 4 channels."""
    channels = image.shape[1]
    colors = image[:, :3] if channels >= 3 else image[:, :1].expand(-1, 3, -1, -1)
    return colors, image[:, -1:] if channels in (2, 4) else None


def join_alpha(picture: Tensor, alpha: Tensor | None, *, channels: int) -> Tensor:
    """The inverse of `split_alpha` on the result: grey for 1 or 2 channels, alpha brought to the picture's size."""
    if channels < 3:
        picture = picture.mean(1, keepdim=True)
    if alpha is None:
        return picture
    return torch.cat([picture, resize(alpha, (picture.shape[2], picture.shape[3]))], 1)


# ---- files ----------------------------------------------------------------------------------------------------------


def read_image(path: str | Path) -> Tensor:
    """A file as (1, 3, h, w), or (1, 4, h, w) where it has transparency; EXIF's rotation applied.

    Grey, palette, 1-bit, 16-bit grey, CMYK and LA files are brought to that form; of an animation, the first frame.
    Raises ImageError for what is no picture, broken, or too large to be one.
    """
    try:
        with Image.open(path) as file:
            file.load()
            return from_pil(ImageOps.exif_transpose(file), str(path))
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to be a picture ({error}).") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = (
            "is no picture this program can read"
            if isinstance(error, UnidentifiedImageError)
            else f"is broken: {error}"
        )
        raise ImageError(f"{path} {reason}.") from error


def from_pil(image: Image.Image, name: str = "The picture") -> Tensor:
    """(1, 3, h, w), or (1, 4, h, w) where the picture has transparency."""
    if image.mode.startswith("I"):  # 16-bit grey, as PNG and TIFF have it
        return _tensor(np.asarray(image, np.float32)[..., None].repeat(3, 2) / 65535)
    if image.mode == "F":
        values = np.asarray(image, np.float32)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise ImageError(f"{name} has float pixels outside 0 to 1: bring it to 8 or 16 bits first.")
        return _tensor(values[..., None].repeat(3, 2))
    transparent = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
    return _tensor(np.asarray(image.convert("RGBA" if transparent else "RGB"), np.float32) / 255)


def _tensor(pixels: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32))[None].clamp(0, 1)


def to_pil(image: Tensor) -> Image.Image:
    """(1, C, H, W) or (C, H, W), C from 1 to 4 -> an 8-bit picture."""
    pixels = image.detach().reshape(image.shape[-3:]).permute(1, 2, 0)
    array = (pixels.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def write_png(path: str | Path, image: Tensor) -> None:
    """Write (1, C, H, W) or (C, H, W) as a PNG, whole or not at all."""
    picture = to_pil(image)
    write_atomic(Path(path), lambda temporary: picture.save(temporary, format="PNG"))


def check_aspect(first: Tensor, second: Tensor, name: str, other: str) -> None:
    """Raises ImageError when two pictures (B, C, H, W) are of different shapes, so that they do not lie on one another."""
    height, width = first.shape[-2:]
    rows, columns = second.shape[-2:]
    if abs(width * rows / (height * columns) - 1) > ASPECT + 1 / min(rows, columns):
        raise ImageError(
            f"The {name} is {width}x{height}, the {other} {columns}x{rows}: of another shape, so they do not lie on one "
            "another."
        )
