"""The text guard: lines that an OCR engine reads differently in a result than in the plain enlargement are blended back.

A strong engine knows language and reads a blurred line better than a wrongly sharpened one, so its reading of the
enlargement is the reference. Its confidence does not help to choose: letters that were drawn wrong look sure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..ocr import Box, Line, Reader, crop_line, read_reference, to_bgr

SHARES = (0.5, 0.75)  # of the enlargement in a line, tried in this order until both read alike; then all of it
MINIMUM = 0.5  # confidence below which a reading of the enlargement says nothing
FEATHER = 0.25  # width of a line's soft border, in heights of the line


@dataclass(frozen=True)
class GuardedLine:
    """One line that was read in the enlargement, how the result read, and the share of the enlargement it has now."""

    line: Line
    read: str  # in the result, before
    share: float  # 0: both read alike, the line was left as it was


def guard_text(image: Tensor, enlarged: Tensor, reader: Reader) -> list[GuardedLine]:
    """Blend lines of `image` back to `enlarged`, in place, until the reader reads both alike.

    image, enlarged (1 or 3, H, W) in [0, 1], of one size, on the CPU. Raises what the reader raises.
    """
    lines = read_reference(enlarged.expand(3, -1, -1)[None], reader, minimum=MINIMUM)
    before = reader.read_boxes(image.expand(3, -1, -1)[None], [line.box for line in lines])
    return [
        GuardedLine(line, read.text, 0.0 if read.text == line.text else blend_line(image, enlarged, line, reader))
        for line, read in zip(lines, before, strict=True)
    ]


def blend_line(image: Tensor, enlarged: Tensor, line: Line, reader: Reader) -> float:
    """Blend one line back by the smallest share that makes it read alike. Returns the share."""
    (top, left), weight = line_weight(line.box, (image.shape[1], image.shape[2]))
    place = (slice(None), slice(top, top + weight.shape[0]), slice(left, left + weight.shape[1]))
    result, plain = image[place].clone(), enlarged[place]
    box = line.box - np.array([left, top], np.float32)
    for share in SHARES:
        image[place] = torch.lerp(result, plain, share * weight)
        text, _ = reader.recognize_line(crop_line(to_bgr(image[place].expand(3, -1, -1)[None]), box))
        if text == line.text:
            return share
    image[place] = torch.lerp(result, plain, weight)
    return 1.0


def line_weight(box: Box, size: tuple[int, int]) -> tuple[tuple[int, int], Tensor]:
    """Draw a line's box with a soft border around it: the window's top and left, and its weights (h, w) in [0, 1]."""
    import cv2  # comes with either engine

    sides = np.linalg.norm(box - np.roll(box, -1, 0), axis=1)
    soft = max(2, round(FEATHER * float(sides.min())))
    left, top = np.maximum(0, np.floor(box.min(0)).astype(int) - 2 * soft)
    right, bottom = np.minimum(size[::-1], np.ceil(box.max(0)).astype(int) + 2 * soft)
    drawn = np.zeros((bottom - top, right - left), np.float32)
    cv2.fillConvexPoly(drawn, np.round(box - [left, top]).astype(np.int32), 1.0)
    drawn = cv2.dilate(drawn, np.ones((2 * soft + 1, 2 * soft + 1), np.uint8))
    return (int(top), int(left)), torch.from_numpy(cv2.blur(drawn, (2 * soft + 1, 2 * soft + 1)))


def summarize(lines: list[GuardedLine], reader: Reader) -> str:
    """Say in one sentence how many lines were blended back, and by which engine."""
    changed = sum(line.share > 0 for line in lines)
    return f"Text guard by {reader.label}: {changed} of {len(lines)} lines were blended back to the enlargement."
