"""PSNR, SSIM, masks, and the Frechet distance. Images are (H, W, 3) uint8 RGB; nothing is cropped off their borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tadisr.errors import ImageError

Array = NDArray[Any]

WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian (Wang et al., 2004)
K1, K2, PEAK = 0.01, 0.03, 255.0
TOUCHED = 0.05  # of a line's box that its mask fills: strokes take a seventh to a third of it


def compute_ssim(first: Array, second: Array, *, padding: str = "valid") -> float:
    """Compute Wang et al.'s SSIM with an 11x11 Gaussian of sigma 1.5; the mean over channels.

    (H, W) or (H, W, C), on a scale of 0 to 255. padding: `valid` counts only windows that fit wholly into the image, `zeros`
    pads images with zeros, as the authors' code does. Raises ImageError for a side under 11.
    """
    if min(first.shape[:2]) < WINDOW:
        raise ImageError(
            f"An image of {first.shape[1]}x{first.shape[0]} is too small for SSIM, whose window has {WINDOW}."
        )
    x, y = (np.ascontiguousarray(image, dtype=np.float64) for image in (first, second))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    both = _blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    likeness /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    margin = WINDOW // 2 if padding == "valid" else 0
    return float(likeness[margin : len(likeness) - margin, margin : likeness.shape[1] - margin].mean())


def _blur(x: Array) -> Array:
    """Blur (H, W) or (H, W, C) by SSIM's Gaussian, zeros around the image."""
    kernel = cv2.getGaussianKernel(WINDOW, SIGMA, cv2.CV_64F)
    return cv2.sepFilter2D(x, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)


def compute_luma(pixels: Array) -> Array:
    """Compute Y of BT.601 in video range, 16 to 235, as MATLAB's rgb2ycbcr does: (H, W, 3) -> (H, W) float64."""
    return pixels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255 + 16


def count_mask_pixels(mask: Array, target: Array) -> tuple[int, int, int]:
    """Count true positives, false positives and false negatives of two masks (H, W) in 0 to 255, at one half."""
    ours, theirs = mask > 127, target > 127
    return int((ours & theirs).sum()), int((ours & ~theirs).sum()), int((~ours & theirs).sum())


def count_mask_on_lines(mask: Array, boxes: Sequence[Array]) -> tuple[int, int, int, int]:
    """Compare a mask (H, W) in 0 to 255, at one half, with the boxes (4, 2) of the lines that a reader found: count the
    mask's pixels in a box, all of them, the boxes of which the mask fills at least TOUCHED, all boxes.
    """
    text = mask > 127
    inside = [cv2.fillPoly(np.zeros(text.shape, np.uint8), [np.round(box).astype(np.int32)], 1) > 0 for box in boxes]
    touched = sum(bool(box.any() and text[box].mean() >= TOUCHED) for box in inside)
    anywhere = np.any(inside, 0) if inside else np.zeros_like(text)
    return int((text & anywhere).sum()), int(text.sum()), touched, len(boxes)


def quad_iou(first: Array, second: Array) -> float:
    """Compute the intersection over union of two convex quadrilaterals (4, 2)."""
    areas = [float(cv2.contourArea(np.asarray(box, np.float32))) for box in (first, second)]
    shared, _ = cv2.intersectConvexConvex(np.asarray(first, np.float32), np.asarray(second, np.float32))
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


def frechet_distance(first: Array, second: Array) -> float:
    """Compute |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of two sets of features (n, d) and (m, d), n and m at least 2.

    With A_i the centred features over sqrt(n_i - 1), S_i = A_i^T A_i, and the trace of the root is the sum of the
    singular values of A_1 A_2^T: exact also where there are fewer images than features, and no root is taken of a
    matrix that has none.
    """
    means, factors, spread = [], [], 0.0
    for features in (first.astype(np.float64), second.astype(np.float64)):
        mean = features.mean(0)
        factor = (features - mean) / np.sqrt(len(features) - 1)
        spread += float(np.square(factor).sum())
        if len(factor) > factor.shape[1]:
            factor = np.linalg.qr(factor, mode="r")
        means.append(mean)
        factors.append(factor)
    root = float(np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum())
    return max(0.0, float(np.square(means[0] - means[1]).sum()) + spread - 2 * root)
