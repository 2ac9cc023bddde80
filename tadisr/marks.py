"""Showing what was read: boxes drawn on a picture, and as a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .image import from_pil, to_pil
from .ocr import Box

GREEN, RED = (30, 170, 70), (220, 40, 40)


def draw_boxes(image: Tensor, boxes: Sequence[Box], colors: Sequence[tuple[int, int, int]]) -> Tensor:
    """(1, 3, H, W) with each box outlined in its colour and numbered from 1, as the reports number them."""
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
    """(1, 1, H, W): 1 inside the boxes, 0 elsewhere."""
    canvas = Image.new("L", (size[1], size[0]))
    pen = ImageDraw.Draw(canvas)
    for box in boxes:
        pen.polygon([(float(x), float(y)) for x, y in box], fill=255)
    return torch.from_numpy(np.asarray(canvas, np.float32) / 255)[None, None]
