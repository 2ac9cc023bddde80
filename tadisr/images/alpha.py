"""Transparency: colours and alpha apart, and colours grown into what is transparent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .resample import as_float, resize

TRUSTED = 0.75  # share of the highest alpha around a pixel from which on its own colour is taken as it is
AROUND = 5  # pixels to a side of the square that is meant

FLAT = 0.5 / 255  # alpha that varies by less is constant


@dataclass(frozen=True)
class Layers:
    """One image apart: colors (1, h, w) where it is grey, else (3, h, w); alpha (1, h, w) or None.

    dark: the colours are darker than middle grey where they show, so that alpha reads as dark on light.
    """

    colors: Tensor
    alpha: Tensor | None = None
    dark: bool = False


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Colours (B, 3, h, w), grey repeated, and the alpha (B, 1, h, w) of images with 2 or 4 channels."""
    channels = image.shape[1]
    colors = image[:, :3] if channels >= 3 else image[:, :1].expand(-1, 3, -1, -1)
    return colors, image[:, -1:] if channels in (2, 4) else None


def join_alpha(picture: Tensor, alpha: Tensor | None, *, channels: int) -> Tensor:
    """The inverse of `split_alpha` on the result: grey for 1 or 2 channels, alpha brought to the image's size."""
    if channels < 3:
        picture = picture.mean(1, keepdim=True)
    if alpha is None:
        return picture
    return torch.cat([picture, resize(alpha, (picture.shape[2], picture.shape[3]))], 1)


def split_layers(image: Tensor) -> Layers:
    """Split one image (C, h, w), C from 1 to 4, float or uint8 or uint16; RGB of equal channels is grey.

    Without transparency the layers are views of the image; else the colours are grown, float32.
    """
    channels = len(image)
    colors = image[:1] if channels < 3 else image[:3]
    if channels >= 3 and torch.equal(colors[0], colors[1]) and torch.equal(colors[0], colors[2]):
        colors = colors[:1]
    if channels in (1, 3):
        return Layers(colors)
    alpha = as_float(image[-1:])
    if bool((alpha == 1).all()):
        return Layers(colors, alpha)
    colors = as_float(colors)
    shown = (colors * alpha).sum() / (alpha.sum() * len(colors)).clamp_min(1e-6)
    return Layers(grow_colors(colors[None], alpha[None])[0], alpha, bool(shown < 0.5))


def grow_colors(colors: Tensor, alpha: Tensor) -> Tensor:
    """Fill transparent pixels with the colours around them: (B, C, h, w) and alpha (B, 1, h, w) -> (B, C, h, w).

    What lies under full transparency is arbitrary, mostly black, and would show as a halo; at the edge of what is seen
    colours are coarsely rounded. Both get means of colours weighted by alpha, of ever larger squares (pull and push).
    """
    height, width = alpha.shape[-2:]
    if max(height, width) == 1:
        return colors
    odd = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(alpha, odd), 2)
    mean = F.avg_pool2d(F.pad(colors * alpha, odd), 2) / weight.clamp_min(1e-6)
    coarse = grow_colors(mean, (weight * 4).clamp(max=1))
    around = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    highest = F.max_pool2d(alpha, AROUND, stride=1, padding=AROUND // 2).clamp_min(1e-6)
    return torch.lerp(around, colors, (alpha / highest / TRUSTED).clamp(max=1))


def laid_on_ground(alpha: Tensor, dark: bool) -> Tensor:
    """Alpha as what it looks like on a ground that its colours stand out from, and back: dark on light is 1 - alpha."""
    return 1 - alpha if dark else alpha


def varies(alpha: Tensor) -> bool:
    """Check whether alpha has any structure, which is to be upscaled."""
    low, high = torch.aminmax(alpha)
    return bool(high - low > FLAT)
