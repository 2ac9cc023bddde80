"""Degrade HR images to LR: Real-ESRGAN's two stages, the order of the authors' FTSR code, and lighter presets.

    ftsr-authors   the order and the ranges of the authors' synthesis code, which made the paper's FTSR: see `authors_order`
    ftsr           Real-ESRGAN's two full stages with the authors' ranges, as Sec. 3.5 reads
    real-esrgan    Real-ESRGAN's two full stages with its own published ranges, the hardest
    light          what phones and web pages do
    bicubic        an antialiased resize alone

The first three are written once, over a list of images, each with its own numpy Generator, and run on either set of
tools: `Pictures` below (OpenCV, (H, W, 3) float32 RGB in [0, 1]) or `Tensors` of degradation_torch.py (CPU or GPU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray

from tadisr.config import SCALE
from tadisr.errors import ConfigError

from .kernels import (
    Blur,
    Kernel,
    Range,
    draw_kernel,
    draw_kernel_size,
    make_gaussian_kernel,
    make_lanczos_kernel,
    make_sinc_kernel,
)

Picture = NDArray[Any]  # float32
Size = tuple[int, int]  # height, width

RESIZERS = ("area", "linear", "cubic")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One round of blur, resize, noise and JPEG. Noise in 1/255, probabilities in [0, 1]."""

    blur: float = 1.0  # how often it is blurred at all
    late_blur: float = 0.0  # how often the blur comes after the noise
    kernels: Blur
    resize_weights: tuple[float, float, float]  # up, down, keep
    resize: Range
    gaussian: float = 0.5  # else Poisson
    noise: Range
    poisson: Range
    gray: float
    jpeg: Range


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Two stages; the last resize to LR size, a final sinc, and JPEG in either order."""

    first: Stage
    second: Stage
    final_sinc: float = 0.8


FTSR = Preset(
    first=Stage(
        kernels=Blur(sigma=(0.1, 0.5), betag=(0.5, 1.1), betap=(1.0, 1.1)), late_blur=0.5,
        resize_weights=(0.2, 0.7, 0.1), resize=(0.2, 1.5), noise=(15, 50), poisson=(0.25, 1.25), gray=0.2,
        jpeg=(60, 100),
    ),
    second=Stage(
        kernels=Blur(sigma=(0.1, 0.5), betag=(0.5, 1.1), betap=(1.0, 1.1)), blur=0.8,
        resize_weights=(0.3, 0.4, 0.3), resize=(0.8, 1.2), noise=(1, 25), poisson=(0.25, 1.25), gray=0.4,
        jpeg=(60, 100),
    ),
)  # fmt: skip
REAL_ESRGAN = Preset(
    first=Stage(
        kernels=Blur(sigma=(0.2, 3.0), betag=(0.5, 4.0), betap=(1.0, 2.0)),
        resize_weights=(0.2, 0.7, 0.1), resize=(0.15, 1.5), noise=(1, 30), poisson=(0.05, 3.0), gray=0.4,
        jpeg=(30, 95),
    ),
    second=Stage(
        kernels=Blur(sigma=(0.2, 1.5), betag=(0.5, 4.0), betap=(1.0, 2.0)), blur=0.8,
        resize_weights=(0.3, 0.4, 0.3), resize=(0.3, 1.2), noise=(1, 25), poisson=(0.05, 2.5), gray=0.4,
        jpeg=(30, 95),
    ),
)  # fmt: skip


# ---- the recipe -----------------------------------------------------------------------------------------------------

T = TypeVar("T")


class Tools(Protocol[T]):
    """Operations of the recipe on images. Lists go in step; None in a list leaves that image as it is."""

    def size(self, image: T) -> Size: ...
    def blur(self, images: list[T], kernels: Sequence[Kernel | None]) -> list[T]: ...
    def resize(self, images: list[T], sizes: Sequence[Size], ways: Sequence[str]) -> list[T]: ...
    def noise(self, images: list[T], stage: Stage, rngs: Sequence[Generator]) -> list[T]: ...
    def jpeg(self, images: list[T], qualities: Sequence[float | None]) -> list[T]: ...


def degrade_two_stage(images: list[T], rngs: Sequence[Generator], tools: Tools[T], *, preset: Preset) -> list[T]:
    """Degrade by Real-ESRGAN's two stages -> LR images, each side a quarter. A result depends on its own generator alone."""
    sizes = [tools.size(image) for image in images]
    small = [(height // SCALE, width // SCALE) for height, width in sizes]
    images = run_stage(images, preset.first, sizes, rngs, tools)
    images = tools.jpeg(images, [rng.uniform(*preset.first.jpeg) for rng in rngs])
    images = run_stage(images, preset.second, small, rngs, tools)
    kernels = [
        make_sinc_kernel(rng.uniform(math.pi / 3, math.pi), draw_kernel_size(rng))
        if rng.random() < preset.final_sinc
        else None
        for rng in rngs
    ]
    qualities = [rng.uniform(*preset.second.jpeg) for rng in rngs]
    last = [rng.random() < 0.5 for rng in rngs]
    images = tools.jpeg(images, [None if late else q for q, late in zip(qualities, last, strict=True)])
    images = tools.resize(images, small, [draw_resizer(rng) for rng in rngs])
    images = tools.blur(images, kernels)
    return tools.jpeg(images, [q if late else None for q, late in zip(qualities, last, strict=True)])


def degrade_authors_order(images: list[T], rngs: Sequence[Generator], tools: Tools[T]) -> list[T]:
    """Degrade in the order of the authors' synthesis code, with FTSR's ranges -> LR images, each side a quarter.

    In half of the samples resize, blur, noise; in the other half noise and blur at the image's own size (their code drops
    the resized image there). Then a resize to 0.8 to 1.2 of LR size, noise, and the last resize and JPEG in either order. No
    JPEG after the first stage, no second blur, no final sinc.
    Source: ftsr_dataset_syn.py in the authors' history (github.com/mingcv/TADiSR, 48e944c to f5f7401).
    """
    first, second = FTSR.first, FTSR.second
    sizes = [tools.size(image) for image in images]
    small = [(height // SCALE, width // SCALE) for height, width in sizes]
    kernels = [draw_kernel(first.kernels, rng) for rng in rngs]
    unresized = [rng.random() < 0.5 for rng in rngs]
    targets = [
        size if own else draw_size(size, first, rng) for size, own, rng in zip(sizes, unresized, rngs, strict=True)
    ]
    images = tools.resize(images, targets, [draw_resizer(rng) for rng in rngs])
    images = tools.blur(images, [None if own else k for k, own in zip(kernels, unresized, strict=True)])
    images = tools.noise(images, first, rngs)
    images = tools.blur(images, [k if own else None for k, own in zip(kernels, unresized, strict=True)])
    targets = [draw_size(size, second, rng) for size, rng in zip(small, rngs, strict=True)]
    images = tools.resize(images, targets, [RESIZERS[1 + int(rng.integers(2))] for rng in rngs])  # no area here
    images = tools.noise(images, second, rngs)
    qualities = [rng.uniform(*second.jpeg) for rng in rngs]
    last = [rng.random() < 0.5 for rng in rngs]
    images = tools.jpeg(images, [None if late else q for q, late in zip(qualities, last, strict=True)])
    images = tools.resize(images, small, [draw_resizer(rng) for rng in rngs])
    return tools.jpeg(images, [q if late else None for q, late in zip(qualities, last, strict=True)])


RECIPES: dict[str, Callable[[list[Any], Sequence[Generator], Any], list[Any]]] = {  # images, a generator of each, tools
    "ftsr-authors": degrade_authors_order,
    "ftsr": partial(degrade_two_stage, preset=FTSR),
    "real-esrgan": partial(degrade_two_stage, preset=REAL_ESRGAN),
}


def run_stage(images: list[T], s: Stage, sizes: list[Size], rngs: Sequence[Generator], tools: Tools[T]) -> list[T]:
    """Blur, resize to random factors of `sizes`, add noise."""
    kernels = [draw_kernel(s.kernels, rng) if rng.random() < s.blur else None for rng in rngs]
    late = [rng.random() < s.late_blur for rng in rngs]
    images = tools.blur(images, [None if after else k for k, after in zip(kernels, late, strict=True)])
    targets = [draw_size(size, s, rng) for size, rng in zip(sizes, rngs, strict=True)]
    images = tools.resize(images, targets, [draw_resizer(rng) for rng in rngs])
    images = tools.noise(images, s, rngs)
    return tools.blur(images, [k if after else None for k, after in zip(kernels, late, strict=True)])


def draw_size(size: Size, s: Stage, rng: Generator) -> Size:
    """Draw the size that a stage resizes to: larger, smaller or the same."""
    way = int(rng.choice(3, p=s.resize_weights))
    factor = (rng.uniform(1, s.resize[1]), rng.uniform(s.resize[0], 1), 1.0)[way]
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def draw_resizer(rng: Generator) -> str:
    """Draw one of RESIZERS."""
    return RESIZERS[int(rng.choice(len(RESIZERS)))]


# ---- its tools for images in memory -------------------------------------------------------------------------------


class Pictures:
    """OpenCV, one image after the other."""

    WAYS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}  # noqa: RUF012

    def size(self, image: Picture) -> Size:
        return image.shape[0], image.shape[1]

    def blur(self, images: list[Picture], kernels: Sequence[Kernel | None]) -> list[Picture]:
        return [image if k is None else blur_image(image, k) for image, k in zip(images, kernels, strict=True)]

    def resize(self, images: list[Picture], sizes: Sequence[Size], ways: Sequence[str]) -> list[Picture]:
        return [
            cv2.resize(image, (width, height), interpolation=self.WAYS[way])
            for image, (height, width), way in zip(images, sizes, ways, strict=True)
        ]

    def noise(self, images: list[Picture], stage: Stage, rngs: Sequence[Generator]) -> list[Picture]:
        return [add_noise(image, stage, rng) for image, rng in zip(images, rngs, strict=True)]

    def jpeg(self, images: list[Picture], qualities: Sequence[float | None]) -> list[Picture]:
        return [image if q is None else compress_jpeg(image, q) for image, q in zip(images, qualities, strict=True)]


def blur_image(image: Picture, kernel: Kernel) -> Picture:
    """Convolve with a kernel, borders reflected."""
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def add_noise(image: Picture, s: Stage, rng: Generator) -> Picture:
    """Add Gaussian noise of one strength, or Poisson noise at as many levels as the image has, in grey or in colour."""
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


def compress_jpeg(image: Picture, quality: float) -> Picture:
    """Encode at quality 1 to 100 and decode by libjpeg; equal images give equal bytes."""
    bgr = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)[..., ::-1]
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1].astype(np.float32) / 255


# ---- by name --------------------------------------------------------------------------------------------------------


def degrade_image(hr: Picture, preset: str, rng: Generator) -> Picture:
    """Degrade an HR image (H, W, 3) to LR (H/4, W/4, 3) by one of PRESETS. Raises ConfigError for another name."""
    if preset not in PRESETS:
        raise ConfigError(f"There is no degradation {preset!r}; known are {', '.join(PRESETS)}.")
    return np.clip(PRESETS[preset](hr, rng), 0, 1).astype(np.float32)


def degrade_mixture(hr: Picture, weights: dict[str, float], rng: Generator) -> Picture:
    """Degrade with a preset drawn by weight."""
    names = list(weights)
    shares = np.array([weights[name] for name in names], np.float64)
    return degrade_image(hr, names[int(rng.choice(len(names), p=shares / shares.sum()))], rng)


def degrade_lightly(hr: Picture, rng: Generator) -> Picture:
    """Degrade as a phone or a web page does: a little blur, perhaps an earlier JPEG, an antialiased resize, noise, JPEG."""
    image = hr
    if rng.random() < 0.9:
        sigma = rng.uniform(0.2, 2.4, 2) if rng.random() < 0.4 else np.repeat(rng.uniform(0.2, 2.0), 2)
        image = blur_image(image, make_gaussian_kernel(13, sigma[0], sigma[1], rng.uniform(-math.pi, math.pi)))
    if rng.random() < 0.3:
        image = compress_jpeg(image + rng.normal(0, rng.uniform(0, 6) / 255, image.shape), rng.uniform(60, 95))
    if rng.random() < 0.1:  # brought up by a careless program before it was brought down
        image = blur_image(image, make_sinc_kernel(rng.uniform(math.pi / 2, math.pi), 13))
    image = shrink_image(image, rng)
    if rng.random() < 0.85:
        image = image + rng.normal(0, rng.uniform(0, 5) / 255, image.shape[:2] + (1 if rng.random() < 0.3 else 3,))
    return compress_jpeg(image, rng.uniform(50, 98)) if rng.random() < 0.85 else image


def degrade_bicubic(hr: Picture, rng: Generator) -> Picture:
    """Downscale by 4 with an antialiased bicubic filter and nothing else."""
    return shrink_image(hr, rng)


def shrink_image(image: Picture, rng: Generator) -> Picture:
    """Reduce each side to a quarter with antialiasing: area, bicubic or Lanczos."""
    height, width = image.shape[0] // SCALE, image.shape[1] // SCALE
    way = rng.choice(3, p=(0.25, 0.5, 0.25))
    if way == 0:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if way == 1:
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None]
        small = F.interpolate(tensor, size=(height, width), mode="bicubic", antialias=True)
        return small[0].numpy().transpose(1, 2, 0)
    return blur_image(image, make_lanczos_kernel())[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def run_alone(recipe: Callable[..., list[Picture]], hr: Picture, rng: Generator) -> Picture:
    """Run a recipe on one image with OpenCV."""
    return recipe([hr], [rng], Pictures())[0]


PRESETS = {
    **{name: partial(run_alone, recipe) for name, recipe in RECIPES.items()},
    "light": degrade_lightly,
    "bicubic": degrade_bicubic,
}
