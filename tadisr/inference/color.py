"""Bring the colours of a result back to those of its input: `off`, `adain` or `wavelet`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError

MODES = ("off", "adain", "wavelet")
LEVELS = 5  # a-trous scales: the coarsest smooths over about 2^5 pixels
KERNEL = (0.25, 0.5, 0.25)


def match(image: Tensor, reference: Tensor, mode: str) -> Tensor:
    """Give `image` the colours of `reference`, both (B, 3, H, W) in [0, 1]. Raises ConfigError for an unknown mode."""
    if mode not in MODES:
        raise ConfigError(f"color is {mode!r}, expected one of {', '.join(MODES)}.")
    if mode == "off":
        return image
    return (adain if mode == "adain" else wavelet)(image, reference).clamp(0, 1)


def adain(image: Tensor, reference: Tensor) -> Tensor:
    """Every channel gets the reference's mean and deviation (Huang and Belongie 2017)."""
    mean, std = image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True, correction=0)
    target_mean = reference.mean((2, 3), keepdim=True)
    target_std = reference.std((2, 3), keepdim=True, correction=0)
    return (image - mean) * (target_std / std.clamp_min(1e-5)) + target_mean


def wavelet(image: Tensor, reference: Tensor) -> Tensor:
    """The image's details on the reference's coarsest a-trous scale; one picture at a time, to spare memory."""
    pairs = zip(image.split(1), reference.split(1), strict=True)
    return torch.cat([one + smooth(other - one) for one, other in pairs])


def smooth(image: Tensor) -> Tensor:
    """LEVELS passes of the a-trous algorithm: [1 2 1]/4 along both sides, its taps 1, 2, 4... apart."""
    channels = image.shape[1]
    taps = torch.tensor(KERNEL, dtype=image.dtype, device=image.device).repeat(channels, 1)
    for level in range(LEVELS):
        gap = 2**level
        image = F.conv2d(_pad(image, 0, gap), taps[:, None, :, None], dilation=(gap, 1), groups=channels)
        image = F.conv2d(_pad(image, gap, 0), taps[:, None, None, :], dilation=(1, gap), groups=channels)
    return image


def _pad(image: Tensor, x: int, y: int) -> Tensor:
    return F.pad(image, (x, x, y, y), mode="replicate")
