"""The blur kernels of Real-ESRGAN's degradation: Gaussians, generalised and plateau-shaped, and ideal low-passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import j1

from tadisr.config import SCALE

Kernel = NDArray[Any]  # (k, k) float32, sums to one
Range = tuple[float, float]

KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
WEIGHTS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
LARGEST = 21


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Distribution of a random kernel: sigmas in pixels, the shapes' exponents, the share of low-passes."""

    sigma: Range
    betag: Range
    betap: Range
    sinc: float = 0.1


def draw_kernel_size(rng: Generator) -> int:
    """Draw an odd kernel size from 7 to LARGEST."""
    return int(rng.integers(3, LARGEST // 2 + 1)) * 2 + 1  # 7 to 21, odd


def draw_kernel(b: Blur, rng: Generator) -> Kernel:
    """Draw a blur kernel: isotropic or anisotropic, Gaussian, generalized Gaussian or plateau, or a low-pass."""
    size = draw_kernel_size(rng)
    if rng.random() < b.sinc:
        return make_sinc_kernel(rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi), size)
    kind = KINDS[int(rng.choice(len(KINDS), p=WEIGHTS))]
    first = rng.uniform(*b.sigma)
    second, angle = (rng.uniform(*b.sigma), rng.uniform(-math.pi, math.pi)) if "aniso" in kind else (first, 0.0)
    beta, plateau = 1.0, False
    if kind.startswith("generalized"):
        beta = _beta(b.betag, rng)
    elif kind.startswith("plateau"):
        beta, plateau = _beta(b.betap, rng), True
    return make_gaussian_kernel(size, first, second, angle, beta=beta, plateau=plateau)


def _beta(limits: Range, rng: Generator) -> float:
    return rng.uniform(limits[0], 1) if rng.random() < 0.5 else rng.uniform(1, limits[1])


def make_gaussian_kernel(
    size: int, sigma1: float, sigma2: float, angle: float, *, beta: float = 1.0, plateau: bool = False
) -> Kernel:
    """Make exp(-q^beta / 2), or 1 / (1 + q^beta) for a plateau, with q the squared Mahalanobis distance; sums to one."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = turn @ np.diag([1 / sigma1**2, 1 / sigma2**2]) @ turn.T
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, axis)
    q = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
    kernel = 1 / (1 + q**beta) if plateau else np.exp(-0.5 * q**beta)
    return (kernel / kernel.sum()).astype(np.float32)


def make_sinc_kernel(cutoff: float, size: int) -> Kernel:
    """Make the circular ideal low-pass c J1(c r) / (2 pi r), cut to size x size; sums to one."""
    axis = np.arange(size) - size // 2
    r = np.hypot(*np.meshgrid(axis, axis))
    kernel = np.full_like(r, cutoff**2 / (4 * math.pi))
    kernel[r > 0] = cutoff * j1(cutoff * r[r > 0]) / (2 * math.pi * r[r > 0])
    return (kernel / kernel.sum()).astype(np.float32)


def make_lanczos_kernel() -> Kernel:
    """Make the Lanczos-3 kernel of a reduction by 4, centred between the two middle pixels of each 4x4 patch."""
    x = (np.arange(-12, 12) + 0.5) / SCALE
    one = np.sinc(x) * np.sinc(x / 3)
    one = (one / one.sum()).astype(np.float32)
    return np.outer(one, one)
