"""The degradation recipe on batches of tensors, on the CPU or a GPU, with the resizers of Real-ESRGAN's own code.

Everything that is drawn per image comes from its numpy Generator. The noise fields come from a torch generator
of the device, seeded by it: an image's LR is the same in any batch, and the same run after run on one kind of device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from tadisr.config import SCALE
from tadisr.errors import ConfigError, ImageError

from .kernels import Kernel
from .recipes import RECIPES, Size, Stage, compress_jpeg

LUMA = (0.299, 0.587, 0.114)


def degrade_batch(hr: Tensor, preset: str, rngs: Sequence[Generator]) -> Tensor:
    """Degrade (B, 3, H, W) in [0, 1], a generator for each -> (B, 3, H/4, W/4), by one of RECIPES.

    Raises ConfigError for another preset, ImageError where H or W is no multiple of 4.
    """
    if preset not in RECIPES:
        raise ConfigError(f"There is no degradation {preset!r} on batches; known are {', '.join(RECIPES)}.")
    if hr.shape[2] % SCALE or hr.shape[3] % SCALE:
        raise ImageError(f"The image is {hr.shape[3]} x {hr.shape[2]}, expected multiples of {SCALE}.")
    return torch.stack(RECIPES[preset](list(hr), rngs, Tensors())).clamp(0, 1)


class Tensors:
    """Images are (3, h, w); those of one size go through an operation together."""

    def size(self, image: Tensor) -> Size:
        return image.shape[1], image.shape[2]

    def blur(self, images: list[Tensor], kernels: Sequence[Kernel | None]) -> list[Tensor]:
        from kornia.filters import filter2d

        def run(batch: Tensor, which: list[int]) -> Tensor:
            stack = np.stack([kernel for i in which if (kernel := kernels[i]) is not None])
            margin = stack.shape[1] // 2
            y, x = (reflect_indices(side, margin).to(batch.device) for side in batch.shape[2:])
            return filter2d(batch[:, :, y][..., x], torch.from_numpy(stack).to(batch), padding="valid")

        keys = [None if k is None else (image.shape, len(k)) for image, k in zip(images, kernels, strict=True)]
        return run_in_batches(images, keys, run)

    def resize(self, images: list[Tensor], sizes: Sequence[Size], ways: Sequence[str]) -> list[Tensor]:
        def run(batch: Tensor, which: list[int]) -> Tensor:
            size, way = sizes[which[0]], ways[which[0]]
            if way == "area":
                return F.interpolate(batch, size=size, mode="area")
            return F.interpolate(batch, size=size, mode=f"bi{way}", align_corners=False)

        keys = [
            None if tuple(image.shape[1:]) == size else (image.shape, size, way)
            for image, size, way in zip(images, sizes, ways, strict=True)
        ]
        return run_in_batches(images, keys, run)

    def noise(self, images: list[Tensor], stage: Stage, rngs: Sequence[Generator]) -> list[Tensor]:
        return [add_noise(image, stage, rng) for image, rng in zip(images, rngs, strict=True)]

    def jpeg(self, images: list[Tensor], qualities: Sequence[float | None]) -> list[Tensor]:
        """Encode and decode by libjpeg on the CPU, as real files are."""
        return [image if q is None else _jpeg(image, q) for image, q in zip(images, qualities, strict=True)]


def run_in_batches(
    images: list[Tensor], keys: Sequence[object], run: Callable[[Tensor, list[int]], Tensor]
) -> list[Tensor]:
    """Run `run` on stacks of the images that share a key; images whose key is None stay as they are."""
    done = list(images)
    for key in dict.fromkeys(key for key in keys if key is not None):
        which = [i for i, other in enumerate(keys) if other == key]
        for i, image in zip(which, run(torch.stack([images[i] for i in which]), which), strict=True):
            done[i] = image
    return done


def reflect_indices(side: int, margin: int) -> Tensor:
    """Return the indices of a row continued by reflection, repeatedly if it is shorter than the margin."""
    turn = max(1, 2 * (side - 1))
    at = torch.arange(-margin, side + margin).abs() % turn
    return torch.minimum(at, turn - at) if side > 1 else torch.zeros_like(at)


def add_noise(image: Tensor, s: Stage, rng: Generator) -> Tensor:
    """Add Gaussian noise of one strength, or Poisson noise at as many levels as the image has, in grey or in colour."""
    gray, gaussian = rng.random() < s.gray, rng.random() < s.gaussian
    strength = rng.uniform(*s.noise) / 255 if gaussian else rng.uniform(*s.poisson)
    generator = torch.Generator(image.device).manual_seed(int(rng.integers(2**63)))
    if gaussian:
        field = torch.empty_like(image[:1] if gray else image).normal_(generator=generator)
        return (image + strength * field).clamp(0, 1)
    clean = image.clamp(0, 1)
    if gray:
        clean = (clean * clean.new_tensor(LUMA)[:, None, None]).sum(0, keepdim=True)
    bytes_ = (clean * 255).round()
    levels = 2 ** math.ceil(math.log2(max(2, int((torch.bincount(bytes_.flatten().int(), minlength=256) > 0).sum()))))
    field = torch.poisson(bytes_ / 255 * levels, generator=generator) / levels - bytes_ / 255
    return (image + strength * field).clamp(0, 1)


def _jpeg(image: Tensor, quality: float) -> Tensor:
    decoded = compress_jpeg(image.permute(1, 2, 0).cpu().numpy(), quality)
    return torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1))).to(image.device)
