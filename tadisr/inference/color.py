"""Bring the colours of a result back to those of its input: `off`, `adain`, `wavelet` or `lab`.

Measured on the finished result strip by strip, and applied to it in place: nothing of the result's size is held beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ..images.resample import Pixels, Span, interpolate_window, resize_window, shrink_image

MODES = ("off", "adain", "wavelet", "lab")
CELL = 2  # LR pixels to a side of a cell of the coarse grid
GAPS = (1, 2)  # a-trous passes over it; with the cell, about the five passes of the x4 image at gaps 1 to 16
ROWS = 64  # of the result at a time


@dataclass(frozen=True)
class Correction:
    """A correction of the result's colours: times gain (C,), plus shift (C,), plus a coarse map (C, h', w').

    lab: gain and shift are those of L*, a*, b*.
    """

    gain: Tensor | None = None
    shift: Tensor | None = None
    coarse: Tensor | None = None
    lab: bool = False

    def apply(self, rows: Tensor, top: int, size: tuple[int, int]) -> None:
        """Correct rows (n, W, C) in place, from row `top` on of a result of `size`."""
        if self.gain is not None and self.shift is not None:
            moved = (to_lab(rows) if self.lab else rows).mul_(self.gain).add_(self.shift)
            if self.lab:
                rows.copy_(from_lab(moved))
        if self.coarse is not None:
            window = interpolate_window(self.coarse, size, (top, top + len(rows)), (0, size[1]))
            rows.add_(window.permute(1, 2, 0))
        rows.clamp_(0, 1)


def check_mode(mode: str) -> None:
    """Raise ConfigError for an unknown mode."""
    if mode not in MODES:
        raise ConfigError(f"color is {mode!r}, expected one of {', '.join(MODES)}.")


def measure_correction(mode: str, result: Tensor, reference: Pixels) -> Correction:
    """Measure the correction that gives a result (H, W, C) the colours of its LR image (C, h, w), both in [0, 1] or in
    levels.

    adain: every channel gets the mean and deviation of the LR image at the result's size (Huang and Belongie 2017).
    lab: the same in CIELAB (Reinhard et al. 2001); a grey image has no colours, for it lab is adain.
    wavelet: the result's coarse scale, about 32 pixels of the x4 image, is replaced by the LR image's.
    """
    if mode in ("adain", "lab"):
        return measure_adain(result, reference, lab=mode == "lab" and reference.shape[0] == 3)
    height, width = reference.shape[-2:]
    grid = (-(-height // CELL), -(-width // CELL))
    return Correction(
        coarse=smooth_image((shrink_image(reference, grid) - shrink_image(result.permute(2, 0, 1), grid))[None])[0]
    )


def measure_adain(result: Tensor, reference: Pixels, *, lab: bool = False) -> Correction:
    """Measure gain and shift of each channel, of RGB or of L*, a*, b*."""
    size = (result.shape[0], result.shape[1])

    def converted(rows: Tensor) -> Tensor:
        return (to_lab(rows) if lab else rows).permute(2, 0, 1)

    mean, deviation = channel_moments(converted(result[top:bottom]) for top, bottom in list_row_spans(size[0]))
    enlarged = (resize_window(reference, size, span, (0, size[1])) for span in list_row_spans(size[0]))
    target_mean, target_deviation = channel_moments(converted(rows.permute(1, 2, 0)) for rows in enlarged)
    gain = target_deviation / deviation.clamp_min(1e-5)
    return Correction(gain=gain.float(), shift=(target_mean - gain * mean).float(), lab=lab)


def to_lab(rows: Tensor) -> Tensor:
    """Convert sRGB (n, W, 3), clamped to [0, 1], to L*, a*, b*."""
    from kornia.color import rgb_to_lab  # slow to import

    return rgb_to_lab(rows.clamp(0, 1).permute(2, 0, 1)[None])[0].permute(1, 2, 0)


def from_lab(rows: Tensor) -> Tensor:
    """Convert L*, a*, b* (n, W, 3) to sRGB in [0, 1]."""
    from kornia.color import lab_to_rgb  # slow to import

    return lab_to_rgb(rows.permute(2, 0, 1)[None])[0].permute(1, 2, 0)


def channel_moments(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of each channel over all parts (C, n, W)."""
    count, total, squares = 0, torch.tensor(0.0), torch.tensor(0.0)
    for part in parts:
        flat = part.flatten(1).double()
        count, total, squares = count + flat.shape[1], total + flat.sum(1), squares + flat.square().sum(1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0).sqrt()


def list_row_spans(height: int) -> Iterator[Span]:
    """List the spans of ROWS rows that cover a height."""
    for top in range(0, height, ROWS):
        yield top, min(top + ROWS, height)


def smooth_image(image: Tensor) -> Tensor:
    """Apply passes of the a-trous algorithm to (B, C, h, w): [1 2 1]/4 along both sides, its taps GAPS apart."""
    for gap in GAPS:
        for axis in (2, 3):
            margins = (0, 0, gap, gap) if axis == 2 else (gap, gap, 0, 0)
            padded, length = F.pad(image, margins, mode="replicate"), image.shape[axis]
            image = padded.narrow(axis, gap, length) * 2  # sums, not a convolution, which unfolds the image
            image += padded.narrow(axis, 0, length)
            image += padded.narrow(axis, 2 * gap, length)
            image /= 4
    return image
