"""Text masks as a hand draws them: what the text stream is guided by in training."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Mask = NDArray[np.float32]  # (H, W) in [0, 1]

SHIFT = 2.0  # HR pixels by which a guide is off at most
WRONG = 0.15  # share of guides with strokes where no text is


def draw_guide(mask: Mask, rng: Generator) -> Mask:
    """Make a true mask imperfect: shifted, thicker or thinner, blurred, partly missing, with strokes that are wrong.

    mask (H, W) in [0, 1] -> the same shape; all zero where nothing of it is left.
    """
    height, width = mask.shape
    right, down = rng.uniform(-SHIFT, SHIFT, 2)
    move = np.array([[1, 0, right], [0, 1, down]], np.float32)
    guide = cv2.warpAffine(mask, move, (width, height), flags=cv2.INTER_LINEAR)
    change = rng.random()
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    if change < 0.3:
        guide = cv2.dilate(guide, kernel)
    elif change < 0.45:
        guide = cv2.erode(guide, kernel)
    if rng.random() < 0.5:
        guide = cv2.GaussianBlur(guide, (0, 0), rng.uniform(0.4, 1.5))
    if rng.random() < 0.4:  # the user corrected one place only
        top, left = int(rng.integers(height * 3 // 4)), int(rng.integers(width * 3 // 4))
        bottom, right = top + int(rng.integers(height // 8, height)), left + int(rng.integers(width // 8, width))
        kept = np.zeros_like(guide)
        kept[top:bottom, left:right] = guide[top:bottom, left:right]
        guide = kept
    if rng.random() < WRONG:
        shift = (int(rng.integers(height // 4, height * 3 // 4)), int(rng.integers(width // 4, width * 3 // 4)))
        free = 1 - cv2.dilate(mask, np.ones((9, 9), np.uint8))
        guide = np.maximum(guide, np.roll(mask, shift, (0, 1)) * free)
    return np.clip(guide, 0, 1).astype(np.float32)
