"""Resize images (B, C, H, W) in [0, 1], whole or any window of the result on its own."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import EllipsisType
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

BICUBIC = -0.5  # the cubic's parameter, as PyTorch and Pillow have it with antialiasing
REACH = 2  # pixels of the coarser grid on either side that the cubic takes in
ROWS = 64  # of a result that `shrink` makes at a time, at most
READ = 128  # rows of the image that it reads for them, beside those around
WIDE = 256  # columns of a window that are made at a time

Span = tuple[int, int]  # begin, end


class Pixels(Protocol):
    """A source of windows, (..., h, w): a tensor, or colours computed as they are read."""

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, place: tuple[EllipsisType, slice, slice], /) -> Tensor: ...


def as_float(image: Tensor) -> Tensor:
    """Convert uint8 and uint16 levels to float32 in [0, 1]; float values are clamped to it in a copy."""
    if image.dtype.is_floating_point:
        return image.float().clamp(0, 1)
    return image.to(torch.float32) / (255 if image.dtype == torch.uint8 else 65535)


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to (H, W), bicubic with antialiasing, clamped to [0, 1]."""
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def output_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Compute the size of the result at a magnification, at least 1x1."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the right and bottom edges until both sides are multiples. (B, C, H, W) -> (B, C, H', W')."""
    height, width = image.shape[-2:]
    margins = (0, -width % multiple, 0, -height % multiple)
    return F.pad(image, margins, mode="replicate") if any(margins) else image  # F.pad copies even so


def source_span(size: int, target: int, outputs: Span) -> Span:
    """Compute which pixels of a side of `size` the pixels `outputs` of `target` are resized from."""
    scale = size / target
    reach = REACH * max(scale, 1)
    return (
        max(0, int((outputs[0] + 0.5) * scale - reach) - 1),
        min(size, int((outputs[1] - 0.5) * scale + reach) + 2),
    )


def resize_matrix(size: int, target: int, outputs: Span, inputs: Span) -> Tensor:
    """Compute the weights of `resize_image` along a side of `size` to `target`: (outputs, inputs), of those spans of either
    side.
    """
    scale = size / target
    wide = max(scale, 1)
    centers = (torch.arange(*outputs, dtype=torch.float64) + 0.5) * scale
    first = (centers - REACH * wide + 0.5).long().clamp(min=0)
    last = (centers + REACH * wide + 0.5).long().clamp(max=size)
    pixels = first[:, None] + torch.arange(int(2 * REACH * wide) + 2)  # that each output is made from, and a few beyond
    weights = cubic_kernel((pixels + 0.5 - centers[:, None]) / wide)
    weights[pixels >= last[:, None]] = 0
    weights /= weights.sum(1, keepdim=True)
    columns = pixels - inputs[0]
    length = inputs[1] - inputs[0]
    weights[(columns < 0) | (columns >= length)] = 0
    return torch.zeros(len(weights), length).scatter_add_(1, columns.clamp(0, length - 1), weights.float())


def cubic_kernel(x: Tensor) -> Tensor:
    """Compute Keys' cubic convolution kernel, zero from 2 on."""
    x = x.abs()
    near = ((BICUBIC + 2) * x - (BICUBIC + 3)) * x * x + 1
    far = BICUBIC * (((x - 5) * x + 8) * x - 4)
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def resize_window(image: Pixels, size: tuple[int, int], rows: Span, columns: Span) -> Tensor:
    """Compute the window of `resize_image(image, size)` over those rows and columns from the pixels it needs.

    image (..., h, w), float or uint8 or uint16. A window may reach beyond the result's borders, which are then repeated.
    Returns (..., rows, columns) float32 in [0, 1].
    """
    return interpolate_window(image, size, rows, columns, as_float).clamp_(0, 1)


def interpolate_window(
    values: Pixels,
    size: tuple[int, int],
    rows: Span,
    columns: Span,
    convert: Callable[[Tensor], Tensor] = Tensor.float,
) -> Tensor:
    """Resize a window as `resize_window` does, of values of any range; convert: makes floats of what is read."""
    if columns[1] - columns[0] > WIDE:  # the matrix of a whole side is mostly zeros
        edges = [*range(columns[0], columns[1], WIDE), columns[1]]
        spans = pairwise(edges)
        return torch.cat([interpolate_window(values, size, rows, span, convert) for span in spans], -1)
    inside = [(min(max(a, 0), n - 1), max(min(b, n), 1)) for (a, b), n in zip((rows, columns), size, strict=True)]
    sides = list(zip(values.shape[-2:], size, inside, strict=True))
    spans = [source_span(*side) for side in sides]
    down, across = (resize_matrix(*side, span) for side, span in zip(sides, spans, strict=True))
    window = down @ convert(values[..., slice(*spans[0]), slice(*spans[1])]) @ across.T
    margins = [n for (a, b), (c, d) in zip((columns, rows), reversed(inside), strict=True) for n in (c - a, b - d)]
    return F.pad(window[None], margins, mode="replicate")[0] if any(margins) else window


def shrink_image(image: Pixels, size: tuple[int, int]) -> Tensor:
    """Resize (..., h, w), float or levels, a few rows at a time, without a float copy of the whole."""
    rows = min(ROWS, max(1, READ * size[0] // image.shape[-2]))
    spans = [(top, min(top + rows, size[0])) for top in range(0, size[0], rows)]
    return torch.cat([resize_window(image, size, span, (0, size[1])) for span in spans], -2)
