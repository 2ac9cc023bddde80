"""Large pictures in tiles, outside the network: cut from the LR picture, run, blended into the output as they come.

Memory does not grow with the picture beyond its input and output: every tile is resized x4 on its own, from its
window of the LR picture, and added under its weights, which sum to one at every pixel. Where the text is known, the
seams between tiles are laid where there is least of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE
from ..errors import ConfigError
from ..images import crop_upscaled

Window = tuple[int, int, int]  # picture of the batch, top, left, in LR pixels
Run = Callable[[Tensor, list[Window]], tuple[Tensor, Tensor]]

# How much of the next tile there is, from 0 to 1 across the seam.
BLENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda x: torch.sin(x * torch.pi / 2).square(),
    "linear": lambda x: x,
    "none": lambda x: (x > 0.5).to(x.dtype),
}
SEAM = 4  # with text-aware seams, one takes this share of the overlap: room to move within it
CENTERED = 0.05  # what a seam pays for lying at the overlap's edge, against one through nothing but text


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sides in pixels of the x4 picture; the authors tile at 768 with 256 shared. Raises ConfigError."""

    tile: int = 768
    overlap: int = 256
    batch: int = 1  # tiles run at once
    blend: str = "cosine"  # across the overlap, see BLENDS
    text_aware: bool = False  # seams where a coarse first pass finds least text

    def __post_init__(self) -> None:
        if self.tile < 16 * SCALE:
            raise ConfigError(f"tile is {self.tile}, expected {16 * SCALE} or more.")
        if not 0 <= self.overlap <= self.tile // 2:
            raise ConfigError(f"overlap is {self.overlap}, expected 0 to half the tile, here {self.tile // 2}.")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}, expected 1 or more.")
        if self.blend not in BLENDS:
            raise ConfigError(f"blend is {self.blend!r}, expected one of {', '.join(BLENDS)}.")

    @property
    def on_lr(self) -> tuple[int, int]:
        """Tile and overlap in LR pixels."""
        return -(-self.tile // SCALE), self.overlap // SCALE


def starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where the tiles begin along a side; the last one is pulled back so that it ends with the picture."""
    if size <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, size - tile, step), size - tile]


def profiles(size: int, tile: int, overlap: int, *, blend: str = "cosine", text: Tensor | None = None) -> list[Tensor]:
    """Each tile's weights along a side of `size`, handed over in the overlaps; they sum to one everywhere.

    All in pixels of one grid. text (size,): how much of it each line of pixels crosses; given, each seam takes only a
    part of its overlap, where there is least. Returns one (min(tile, size),) tensor a tile, float32.
    """
    begins, length = starts(size, tile, overlap), min(tile, size)
    weights = torch.zeros(len(begins), size, dtype=torch.float64)
    weights[0] = 1
    edge = 0
    for i in range(1, len(begins)):
        zone = (max(begins[i], edge), begins[i - 1] + length)
        first, last = seam(zone, overlap, None if text is None else text)
        rise = BLENDS[blend]((torch.arange(last - first, dtype=torch.float64) + 0.5) / max(1, last - first))
        weights[i, first:last], weights[i, last:] = rise, 1
        weights[i - 1, first:last] *= 1 - rise
        weights[i - 1, last:] = 0
        edge = last
    return [weight[begin : begin + length].float() for begin, weight in zip(begins, weights, strict=True)]


def seam(zone: tuple[int, int], overlap: int, text: Tensor | None) -> tuple[int, int]:
    """Where within the zone that two tiles share one hands over to the other: its middle, or where least text is."""
    width = min(overlap if text is None else max(1, overlap // SEAM), zone[1] - zone[0])
    room = zone[1] - zone[0] - width
    if text is None or room == 0 or width == 0:
        first = zone[0] + room // 2
        return first, first + width
    crossed = text[zone[0] : zone[1]].double().unfold(0, width, 1).mean(1)  # (room + 1,)
    off = torch.linspace(-1, 1, room + 1, dtype=torch.float64).abs()
    first = zone[0] + int((crossed / text.max().clamp_min(1e-6) + CENTERED * off).argmin())
    return first, first + width


def windows(images: int, height: int, width: int, tile: int, overlap: int) -> Iterator[Window]:
    for image in range(images):
        for top in starts(height, tile, overlap):
            for left in starts(width, tile, overlap):
                yield image, top, left


def run_tiled(
    run: Run,
    lr: Tensor,
    *,
    tiling: Tiling,
    text: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the network over a batch of LR pictures, tile by tile.

    lr (B, 3, h, w) in [0, 1]. run: upscaled tiles (n, 3, H, W) and their windows -> pictures (n, 3, H, W) and masks
    (n, 1, H, W). text (B, 1, h', w'): a coarse text mask of any size, for seams that go around it.
    Returns (B, 3, 4h, 4w) and (B, 1, 4h, 4w), float32 on the CPU. progress(done, total) counts tiles.
    """
    images, _, height, width = lr.shape
    tile, overlap = tiling.on_lr
    picture = torch.zeros(images, 3, height * SCALE, width * SCALE)
    mask = torch.zeros(images, 1, height * SCALE, width * SCALE)
    plan = list(windows(images, height, width, tile, overlap))
    weights = [grid_weights(height, width, tiling, None if text is None else text[i, 0]) for i in range(images)]
    for done in range(0, len(plan), tiling.batch):
        group = plan[done : done + tiling.batch]
        cut = [
            crop_upscaled(lr[i : i + 1], top, left, min(tile, height - top), min(tile, width - left))
            for i, top, left in group
        ]
        colors, masks = run(torch.cat(cut), group)
        for (i, top, left), color, found in zip(group, colors.float().cpu(), masks.float().cpu(), strict=True):
            rows, columns = weights[i]
            weight = rows[top][:, None] * columns[left]
            y = slice(top * SCALE, top * SCALE + weight.shape[0])
            x = slice(left * SCALE, left * SCALE + weight.shape[1])
            picture[i, :, y, x] += color * weight
            mask[i, :, y, x] += found * weight
        if progress is not None:
            progress(done + len(group), len(plan))
    return picture.clamp_(0, 1), mask.clamp_(0, 1)


def grid_weights(
    height: int, width: int, tiling: Tiling, text: Tensor | None = None
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Weights of rows and of columns on the x4 grid, by the tile's start on the LR grid. text (h', w') of any size."""
    tile, overlap = tiling.on_lr
    found = []
    for side, across in ((height, 1), (width, 0)):
        crossed = None
        if text is not None:
            line = text.float().square().mean(across)[None, None]  # what is sure counts
            crossed = F.interpolate(line, size=side * SCALE, mode="linear", align_corners=False)[0, 0]
        weights = profiles(side * SCALE, tile * SCALE, overlap * SCALE, blend=tiling.blend, text=crossed)
        found.append(dict(zip(starts(side, tile, overlap), weights, strict=True)))
    return found[0], found[1]
