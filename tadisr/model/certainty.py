"""Certainty of the network's residual on the upscaled input, and blending by it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

WINDOW = 33  # pixels along a side over which the residual and its variance are averaged
SCALE = 0.08  # standard deviation in [0, 1] at which the certainty is 1/e


def certainty_map(log_variance: Tensor) -> Tensor:
    """Compute exp(-sigma / 0.08) of the predicted standard deviation: 1 is certain. (B, 1, H, W) -> (B, 1, H, W) in [0, 1]."""
    return (-(0.5 * log_variance.float()).exp() / SCALE).exp()


def keep_sure_detail(image: Tensor, upscaled: Tensor, log_variance: Tensor, detail: float) -> Tensor:
    """Blend toward the upscaled input where the network's error is large beside what it adds.

    image, upscaled (B, 3, H, W); log_variance (B, 1, H, W); detail: 1 keeps all, 0 keeps only what is sure. With S the
    residual's power and s2 the predicted variance, both averaged over 33 x 33 pixels, and q = S / ((1 - detail) s2), the
    residual is multiplied by q^3 / (q^3 + 1).
    """
    if detail >= 1:
        return image
    residual = (image - upscaled).float()
    power = average_window(residual.square().mean(1, keepdim=True))
    variance = average_window(log_variance.float().exp())
    share = (power / ((1 - detail) * variance + 1e-12)).pow(3)
    return upscaled + residual * (share / (share + 1))


def average_window(values: Tensor) -> Tensor:
    """Average over WINDOW x WINDOW pixels inside the image. (B, 1, H, W) -> (B, 1, H, W)."""
    half = WINDOW // 2
    for dims in ((WINDOW, 1), (1, WINDOW)):
        pad = (half if dims[0] > 1 else 0, half if dims[1] > 1 else 0)
        values = F.avg_pool2d(values, dims, stride=1, padding=pad, count_include_pad=False)
    return values
