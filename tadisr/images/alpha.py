"""Transparency: colours and alpha apart, and colours grown into what is transparent."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from .resample import Pixels, as_float, resize_image

TRUSTED = 0.75  # share of the highest alpha around a pixel from which on its own colour is taken as it is
AROUND = 5  # pixels to a side of the square that is meant
HALO = 4  # pixels around a window that its grown colours are made from, even and more than half of AROUND
ROWS = 256  # of an image at a time, even

FLAT = 0.5 / 255  # alpha that varies by less is constant


@dataclass(frozen=True)
class Layers:
    """One image apart: colors (1, h, w) where it is grey, else (3, h, w); alpha (1, h, w) or None. Both as stored.

    dark: the colours are darker than middle grey where they show, so that alpha reads as dark on light.
    """

    colors: Pixels
    alpha: Tensor | None = None
    dark: bool = False


def split_alpha(image: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split images with 2 or 4 channels into colours (B, 3, h, w), grey repeated, and alpha (B, 1, h, w); None without
    alpha.
    """
    channels = image.shape[1]
    colors = image[:, :3] if channels >= 3 else image[:, :1].expand(-1, 3, -1, -1)
    return colors, image[:, -1:] if channels in (2, 4) else None


def join_alpha(picture: Tensor, alpha: Tensor | None, *, channels: int) -> Tensor:
    """Join a result's colours and alpha as `split_alpha` took them apart: grey for 1 or 2 channels, alpha resized to the
    image.
    """
    if channels < 3:
        picture = picture.mean(1, keepdim=True)
    if alpha is None:
        return picture
    return torch.cat([picture, resize_image(alpha, (picture.shape[2], picture.shape[3]))], 1)


def split_layers(image: Tensor) -> Layers:
    """Split one image (C, h, w), C from 1 to 4, float or uint8 or uint16; RGB of equal channels is grey.

    The layers are views of the image; colours beside transparency are grown where they are read.
    """
    channels = len(image)
    colors = image[:1] if channels < 3 else image[:3]
    if channels >= 3 and torch.equal(colors[0], colors[1]) and torch.equal(colors[0], colors[2]):
        colors = colors[:1]
    if channels in (1, 3):
        return Layers(colors)
    alpha = image[-1:]
    if all(bool((as_float(alpha[:, top : top + ROWS]) == 1).all()) for top in range(0, alpha.shape[1], ROWS)):
        return Layers(colors, alpha)
    grown = GrownColors(colors, alpha)
    return Layers(grown, alpha, grown.mean_shown < 0.5)


class GrownColors:
    """Colours (c, h, w) in [0, 1], grown into transparent parts as `colors[..., rows, columns]` reads them.

    The image is held as it is stored; beside it only means of its pixels at half its size.
    """

    def __init__(self, colors: Tensor, alpha: Tensor) -> None:
        self.colors, self.alpha = colors, alpha
        strips = [(colors[:, top : top + ROWS], alpha[:, top : top + ROWS]) for top in range(0, colors.shape[1], ROWS)]
        means, weights, shown, total = [], [], 0.0, 0.0
        for strip in strips:
            part, weight = (as_float(layer)[None] for layer in strip)
            shown, total = shown + float((part * weight).sum()), total + float(weight.sum())
            mean, weight = halve(part, weight)
            means.append(mean)
            weights.append(weight)
        self.mean_shown = shown / max(total * len(colors), 1e-6)
        self.coarse = grow_colors(torch.cat(means, 2), torch.cat(weights, 2))

    @property
    def shape(self) -> torch.Size:
        return self.colors.shape

    def __len__(self) -> int:
        return len(self.colors)

    def __getitem__(self, place: tuple[EllipsisType, slice, slice]) -> Tensor:
        """The grown colours (c, rows, columns), float32."""
        spans = [at.indices(side)[:2] for at, side in zip(place[1:], self.shape[1:], strict=True)]
        wide = [(max(0, begin // 2 * 2 - HALO), end + HALO) for begin, end in spans]
        rows, columns = (slice(*span) for span in wide)
        colors, alpha = (as_float(layer[:, rows, columns])[None] for layer in (self.colors, self.alpha))
        half_rows, half_columns = (slice(begin // 2, -(-end // 2)) for begin, end in wide)
        grown = lay_over(self.coarse[..., half_rows, half_columns], colors, alpha)[0]
        inner = (slice(a - first, b - first) for (a, b), (first, _) in zip(spans, wide, strict=True))
        return grown[(slice(None), *inner)]


def grow_colors(colors: Tensor, alpha: Tensor) -> Tensor:
    """Fill transparent pixels with the colours around them: (B, C, h, w) and alpha (B, 1, h, w) -> (B, C, h, w).

    What lies under full transparency is arbitrary, mostly black, and would show as a halo; at the edge of what is seen
    colours are coarsely rounded. Both get means of colours weighted by alpha, of ever larger squares (pull and push).
    """
    if max(alpha.shape[-2:]) == 1:
        return colors
    return lay_over(grow_colors(*halve(colors, alpha)), colors, alpha)


def halve(colors: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Means of 2x2 pixels weighted by alpha, and their alpha, which counts in full from a quarter on."""
    height, width = alpha.shape[-2:]
    odd = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(alpha, odd), 2)
    return F.avg_pool2d(F.pad(colors * alpha, odd), 2) / weight.clamp_min(1e-6), (weight * 4).clamp(max=1)


def lay_over(coarse: Tensor, colors: Tensor, alpha: Tensor) -> Tensor:
    """Keep the colours where alpha is about the highest around, and blend to the coarse ones below."""
    height, width = alpha.shape[-2:]
    around = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
    highest = F.max_pool2d(alpha, AROUND, stride=1, padding=AROUND // 2).clamp_min(1e-6)
    return torch.lerp(around, colors, (alpha / highest / TRUSTED).clamp(max=1))


def blend_on_ground(alpha: Tensor, dark: bool) -> Tensor:
    """Convert alpha to its appearance on a ground that the colours stand out from, and back: dark on light is 1 - alpha."""
    return 1 - alpha if dark else alpha


def needs_upscaling(alpha: Tensor) -> bool:
    """Check whether alpha has any structure that is to be upscaled."""
    low, high = torch.aminmax(as_float(alpha))
    return bool(high - low > FLAT)
