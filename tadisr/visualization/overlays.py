"""Showing what was read and what was cut: boxes and tiles drawn on an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..config import SCALE
from ..images import from_pil, to_pil
from ..inference.tiling import Tiling, cover_side, grid_weights
from ..ocr import Box

GREEN, RED = (30, 170, 70), (220, 40, 40)


def draw_boxes(image: Tensor, boxes: Sequence[Box], colors: Sequence[tuple[int, int, int]]) -> Tensor:
    """Draw each box on (1, 3, H, W), outlined in its colour and numbered from 1, as the reports number them."""
    picture = to_pil(image).convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 300))
    font = ImageFont.load_default(max(10, round(min(picture.size) / 40)))
    for number, (box, color) in enumerate(zip(boxes, colors, strict=True), 1):
        corners = [(float(x), float(y)) for x, y in box]
        pen.line([*corners, corners[0]], fill=color, width=width, joint="curve")
        left, _, right, bottom = pen.textbbox((0, 0), str(number), font=font)
        x, y = max(0.0, corners[0][0] - (right - left) - 2 * width), max(0.0, corners[0][1])
        pen.rectangle((x, y, x + right + 2, y + bottom + 2), fill=color)
        pen.text((x + 1, y + 1), str(number), fill="white", font=font)
    return from_pil(picture)


def box_mask(boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Make a mask (1, 1, H, W): 1 inside the boxes, 0 elsewhere."""
    canvas = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for box in boxes:
        pen.polygon([(float(x), float(y)) for x, y in box], fill=255)
    return torch.from_numpy(np.asarray(canvas, np.float32) / 255)[None, None]


def draw_tiles(image: Tensor, tiling: Tiling, text: Tensor | None = None) -> Tensor:
    """Draw the tiles' outlines on an LR image (1, 3, h, w), in red where one takes over from the next.

    text (h', w'): a coarse text mask, as `run_tiled` takes it.
    """
    height, width = image.shape[-2:]
    sides = [cover_side(side, tiling) for side in (height, width)]
    down, across = map(measure_handover, sides, grid_weights(height, width, tiling, text), (height, width))
    shared = torch.maximum(down[:, None].expand(height, width), across.expand(height, width))
    picture = to_pil(image[0])
    pen = ImageDraw.Draw(picture)
    for top, bottom in sides[0]:
        for left, right in sides[1]:
            pen.rectangle((max(0, left), max(0, top), min(right, width) - 1, min(bottom, height) - 1), outline=GREEN)
    outlined = from_pil(picture.convert("RGB"))
    red = torch.tensor(RED, dtype=torch.float32)[:, None, None] / 255
    return torch.lerp(outlined, red.expand_as(outlined), (0.7 * shared).clamp(0, 1))


def measure_handover(spans: Sequence[tuple[int, int]], weights: Sequence[Tensor], size: int) -> Tensor:
    """Measure how far each LR pixel along a side is from being one tile's alone: (size,) in 0 to 1; a hard line is 1.

    spans, weights: of the tiles, as `cover_side` and `grid_weights` give them.
    """
    shares = torch.zeros(len(weights), size * SCALE)
    for share, (begin, _), weight in zip(shares, spans, weights, strict=True):
        first = max(0, begin) * SCALE
        share[first : first + len(weight)] = weight
    most, owner = shares.max(0)
    shared = (2 * (1 - most)).clamp(0, 1)
    shared[1:][owner.diff() != 0] = 1
    return shared.view(size, SCALE).amax(1)
