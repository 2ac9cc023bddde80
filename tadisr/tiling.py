"""Large pictures in tiles, outside the network: cut from the LR picture, run, blended into the output as they come.

Memory does not grow with the picture beyond its input and output: every tile is resized x4 on its own, from its
window of the LR picture, and added under its weights, which sum to one at every pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import SCALE
from .errors import ConfigError
from .image import crop_upscaled

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
Window = tuple[int, int, int]  # picture of the batch, top, left, in LR pixels


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sides in pixels of the x4 picture; the authors tile at 768 with 256 shared. Raises ConfigError."""

    tile: int = 768
    overlap: int = 256
    batch: int = 1  # tiles run at once

    def __post_init__(self) -> None:
        if self.tile < 16 * SCALE:
            raise ConfigError(f"tile is {self.tile}, expected {16 * SCALE} or more.")
        if not 0 <= self.overlap <= self.tile // 2:
            raise ConfigError(f"overlap is {self.overlap}, expected 0 to half the tile, here {self.tile // 2}.")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}, expected 1 or more.")


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles begin along a side; the last one is pulled back so that it ends with the picture."""
    if size <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, size - tile, step), size - tile]


def profiles(size: int, tile: int, overlap: int) -> list[Tensor]:
    """Each tile's weights along a side of `size`, a raised cosine over the overlaps; they sum to one everywhere.

    All in pixels of one grid. Returns one (min(tile, size),) tensor a tile, float32.
    """
    begins, length = starts(size, tile, overlap), min(tile, size)
    ramp = torch.ones(length, dtype=torch.float64)
    if overlap and len(begins) > 1:
        rise = torch.sin(torch.linspace(0, 1, overlap + 2, dtype=torch.float64)[1:-1] * torch.pi / 2).square()
        ramp[:overlap] = rise
    weights = []
    for i, begin in enumerate(begins):
        weight = torch.ones(length, dtype=torch.float64)
        weight *= ramp if i > 0 else 1
        weight *= ramp.flip(0) if i < len(begins) - 1 else 1
        weights.append((begin, weight))
    total = torch.zeros(size, dtype=torch.float64)
    for begin, weight in weights:
        total[begin : begin + length] += weight
    return [(weight / total[begin : begin + length]).float() for begin, weight in weights]


def windows(images: int, height: int, width: int, tile: int, overlap: int) -> Iterator[Window]:
    for image in range(images):
        for top in starts(height, tile, overlap):
            for left in starts(width, tile, overlap):
                yield image, top, left


def run_tiled(
    run: Run, lr: Tensor, *, tiling: Tiling, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Run the network over a batch of LR pictures, tile by tile.

    lr (B, 3, h, w) in [0, 1]. run: upscaled tiles (n, 3, H, W) -> pictures (n, 3, H, W) and masks (n, 1, H, W).
    Returns (B, 3, 4h, 4w) and (B, 1, 4h, 4w), float32 on the CPU. progress(done, total) counts tiles.
    """
    images, _, height, width = lr.shape
    tile, overlap = -(-tiling.tile // SCALE), tiling.overlap // SCALE
    rows = _by_start(height, tile, overlap)
    columns = _by_start(width, tile, overlap)
    picture = torch.zeros(images, 3, height * SCALE, width * SCALE)
    mask = torch.zeros(images, 1, height * SCALE, width * SCALE)
    plan = list(windows(images, height, width, tile, overlap))
    for done in range(0, len(plan), tiling.batch):
        group = plan[done : done + tiling.batch]
        cut = [
            crop_upscaled(lr[i : i + 1], top, left, min(tile, height - top), min(tile, width - left))
            for i, top, left in group
        ]
        colors, texts = run(torch.cat(cut))
        for (i, top, left), color, text in zip(group, colors.float().cpu(), texts.float().cpu(), strict=True):
            weight = rows[top][:, None] * columns[left]
            y, x = (
                slice(top * SCALE, top * SCALE + weight.shape[0]),
                slice(left * SCALE, left * SCALE + weight.shape[1]),
            )
            picture[i, :, y, x] += color * weight
            mask[i, :, y, x] += text * weight
        if progress is not None:
            progress(done + len(group), len(plan))
    return picture.clamp_(0, 1), mask.clamp_(0, 1)


def _by_start(size: int, tile: int, overlap: int) -> dict[int, Tensor]:
    """Weights on the x4 grid by the tile's start on the LR grid."""
    weights = profiles(size * SCALE, tile * SCALE, overlap * SCALE)
    return dict(zip(starts(size, tile, overlap), weights, strict=True))
