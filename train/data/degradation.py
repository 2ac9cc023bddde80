"""From HR to LR: Real-ESRGAN's two-stage degradation with the paper's ranges, its own wider ones, and a light one.

Pictures are (H, W, 3) float32 RGB in [0, 1]; every random choice comes from the numpy Generator given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import j1

from tadisr.config import SCALE
from tadisr.errors import ConfigError

Picture = NDArray[Any]  # float32
Range = tuple[float, float]

KERNELS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
KERNEL_WEIGHTS = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
RESIZERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One round of blur, resize, noise and JPEG. Sigmas in pixels, noise in 1/255, probabilities in [0, 1]."""

    blur: float = 1.0  # how often it is blurred at all
    sigma: Range
    sinc: float = 0.1
    betag: Range
    betap: Range
    resize_weights: tuple[float, float, float]  # up, down, keep
    resize: Range
    gaussian: float = 0.5  # else Poisson
    noise: Range
    poisson: Range
    gray: float
    jpeg: Range
    late_blur: float = 0.0  # how often the blur comes after the noise


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Two stages; the last resize to LR size, a final sinc, and JPEG in either order."""

    first: Stage
    second: Stage
    final_sinc: float = 0.8


FTSR = Preset(
    first=Stage(
        sigma=(0.1, 0.5), betag=(0.5, 1.1), betap=(1.0, 1.1), resize_weights=(0.2, 0.7, 0.1), resize=(0.2, 1.5),
        noise=(15, 50), poisson=(0.25, 1.25), gray=0.2, jpeg=(60, 100), late_blur=0.5,
    ),
    second=Stage(
        blur=0.8, sigma=(0.1, 0.5), betag=(0.5, 1.1), betap=(1.0, 1.1), resize_weights=(0.3, 0.4, 0.3),
        resize=(0.8, 1.2), noise=(1, 25), poisson=(0.25, 1.25), gray=0.4, jpeg=(60, 100),
    ),
)  # fmt: skip
REAL_ESRGAN = Preset(
    first=Stage(
        sigma=(0.2, 3.0), betag=(0.5, 4.0), betap=(1.0, 2.0), resize_weights=(0.2, 0.7, 0.1), resize=(0.15, 1.5),
        noise=(1, 30), poisson=(0.05, 3.0), gray=0.4, jpeg=(30, 95),
    ),
    second=Stage(
        blur=0.8, sigma=(0.2, 1.5), betag=(0.5, 4.0), betap=(1.0, 2.0), resize_weights=(0.3, 0.4, 0.3),
        resize=(0.3, 1.2), noise=(1, 25), poisson=(0.05, 2.5), gray=0.4, jpeg=(30, 95),
    ),
)  # fmt: skip


def degrade(hr: Picture, preset: str, rng: Generator) -> Picture:
    """LR (H/4, W/4, 3) of an HR picture. Presets: `ftsr`, `real-esrgan`, `light`, `bicubic`."""
    if preset not in PRESETS:
        raise ConfigError(f"There is no degradation {preset!r}; known are {', '.join(PRESETS)}.")
    return np.clip(PRESETS[preset](hr, rng), 0, 1).astype(np.float32)


def mixture(hr: Picture, weights: dict[str, float], rng: Generator) -> Picture:
    """`degrade` with a preset drawn by weight."""
    names = list(weights)
    shares = np.array([weights[name] for name in names], np.float64)
    return degrade(hr, names[int(rng.choice(len(names), p=shares / shares.sum()))], rng)


def two_stage(hr: Picture, preset: Preset, rng: Generator) -> Picture:
    height, width = hr.shape[:2]
    small = (width // SCALE, height // SCALE)
    image = jpeg(stage(hr, preset.first, (width, height), rng), rng.uniform(*preset.first.jpeg))
    image = stage(image, preset.second, small, rng)
    kernel = None
    if rng.random() < preset.final_sinc:
        kernel = sinc_kernel(rng.uniform(math.pi / 3, math.pi), kernel_size(rng))
    quality = rng.uniform(*preset.second.jpeg)
    jpeg_last = rng.random() < 0.5
    if not jpeg_last:
        image = jpeg(image, quality)
    image = cv2.resize(image, small, interpolation=int(rng.choice(RESIZERS)))
    if kernel is not None:
        image = blur(image, kernel)
    return jpeg(image, quality) if jpeg_last else image


def stage(image: Picture, s: Stage, size: tuple[int, int], rng: Generator) -> Picture:
    """Blur, resize to a random factor of `size` (width, height), noise."""
    kernel = random_kernel(s, rng) if rng.random() < s.blur else None
    late = rng.random() < s.late_blur
    if kernel is not None and not late:
        image = blur(image, kernel)
    way = int(rng.choice(3, p=s.resize_weights))
    factor = (rng.uniform(1, s.resize[1]), rng.uniform(s.resize[0], 1), 1.0)[way]
    target = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    image = cv2.resize(image, target, interpolation=int(rng.choice(RESIZERS)))
    image = add_noise(image, s, rng)
    return blur(image, kernel) if kernel is not None and late else image


def light(hr: Picture, rng: Generator) -> Picture:
    """What a phone or a web page does: a little blur, perhaps an earlier JPEG, an antialiased resize, noise, JPEG."""
    image = hr
    if rng.random() < 0.9:
        sigma = rng.uniform(0.2, 2.4, 2) if rng.random() < 0.4 else np.repeat(rng.uniform(0.2, 2.0), 2)
        image = blur(image, gaussian_kernel(13, sigma[0], sigma[1], rng.uniform(-math.pi, math.pi)))
    if rng.random() < 0.3:
        image = jpeg(image + rng.normal(0, rng.uniform(0, 6) / 255, image.shape), rng.uniform(60, 95))
    if rng.random() < 0.1:  # brought up by a careless program before it was brought down
        image = blur(image, sinc_kernel(rng.uniform(math.pi / 2, math.pi), 13))
    image = shrink(image, rng)
    if rng.random() < 0.85:
        image = image + rng.normal(0, rng.uniform(0, 5) / 255, image.shape[:2] + (1 if rng.random() < 0.3 else 3,))
    return jpeg(image, rng.uniform(50, 98)) if rng.random() < 0.85 else image


def bicubic(hr: Picture, rng: Generator) -> Picture:
    """Clean down-scaling, the sharpest LR there is."""
    return shrink(hr, rng)


def shrink(image: Picture, rng: Generator) -> Picture:
    """To a quarter of each side with antialiasing: area, bicubic or Lanczos."""
    height, width = image.shape[0] // SCALE, image.shape[1] // SCALE
    way = rng.choice(3, p=(0.25, 0.5, 0.25))
    if way == 0:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if way == 1:
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None]
        small = F.interpolate(tensor, size=(height, width), mode="bicubic", antialias=True)
        return small[0].numpy().transpose(1, 2, 0)
    return blur(image, lanczos_kernel())[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def lanczos_kernel() -> Picture:
    """Lanczos-3 for a quarter, centred between the two middle pixels of each 4x4 patch."""
    x = (np.arange(-12, 12) + 0.5) / SCALE
    one = np.sinc(x) * np.sinc(x / 3)
    one = (one / one.sum()).astype(np.float32)
    return np.outer(one, one)


def kernel_size(rng: Generator) -> int:
    return int(rng.integers(3, 11)) * 2 + 1  # 7 to 21, odd


def random_kernel(s: Stage, rng: Generator) -> Picture:
    size = kernel_size(rng)
    if rng.random() < s.sinc:
        return sinc_kernel(rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi), size)
    kind = KERNELS[int(rng.choice(len(KERNELS), p=KERNEL_WEIGHTS))]
    first = rng.uniform(*s.sigma)
    second, angle = (rng.uniform(*s.sigma), rng.uniform(-math.pi, math.pi)) if "aniso" in kind else (first, 0.0)
    beta, plateau = 1.0, False
    if kind.startswith("generalized"):
        beta = _beta(s.betag, rng)
    elif kind.startswith("plateau"):
        beta, plateau = _beta(s.betap, rng), True
    return gaussian_kernel(size, first, second, angle, beta=beta, plateau=plateau)


def _beta(limits: Range, rng: Generator) -> float:
    return rng.uniform(limits[0], 1) if rng.random() < 0.5 else rng.uniform(1, limits[1])


def gaussian_kernel(
    size: int, sigma1: float, sigma2: float, angle: float, *, beta: float = 1.0, plateau: bool = False
) -> Picture:
    """exp(-q^beta / 2), or 1 / (1 + q^beta) for a plateau, q the squared Mahalanobis distance; sums to one."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = turn @ np.diag([1 / sigma1**2, 1 / sigma2**2]) @ turn.T
    axis = np.arange(size) - size // 2
    x, y = np.meshgrid(axis, axis)
    q = inverse[0, 0] * x * x + 2 * inverse[0, 1] * x * y + inverse[1, 1] * y * y
    kernel = 1 / (1 + q**beta) if plateau else np.exp(-0.5 * q**beta)
    return (kernel / kernel.sum()).astype(np.float32)


def sinc_kernel(cutoff: float, size: int) -> Picture:
    """The circular ideal low-pass c J1(c r) / (2 pi r), cut to size x size; sums to one."""
    axis = np.arange(size) - size // 2
    r = np.hypot(*np.meshgrid(axis, axis))
    kernel = np.full_like(r, cutoff**2 / (4 * math.pi))
    kernel[r > 0] = cutoff * j1(cutoff * r[r > 0]) / (2 * math.pi * r[r > 0])
    return (kernel / kernel.sum()).astype(np.float32)


def blur(image: Picture, kernel: Picture) -> Picture:
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def add_noise(image: Picture, s: Stage, rng: Generator) -> Picture:
    gray = rng.random() < s.gray
    if rng.random() < s.gaussian:
        shape = (*image.shape[:2], 1 if gray else 3)
        noise = rng.normal(0, rng.uniform(*s.noise) / 255, shape)
    else:
        clean = np.clip(image, 0, 1)
        if gray:
            clean = cv2.cvtColor(clean, cv2.COLOR_RGB2GRAY)[..., None]
        levels = 2 ** math.ceil(math.log2(max(2, len(np.unique((clean * 255).round().astype(np.uint8))))))
        noise = (rng.poisson(clean * levels) / levels - clean) * rng.uniform(*s.poisson)
    return np.clip(image + noise, 0, 1).astype(np.float32)


def jpeg(image: Picture, quality: float) -> Picture:
    bgr = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)[..., ::-1]
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / 255


PRESETS = {
    "ftsr": lambda hr, rng: two_stage(hr, FTSR, rng),
    "real-esrgan": lambda hr, rng: two_stage(hr, REAL_ESRGAN, rng),
    "light": light,
    "bicubic": bicubic,
}
