"""Tiles: where they lie, how one hands over to the next, and how they are added up at the size asked for.

Memory does not grow with the image beyond its input and output: every tile is enlarged from its own window of the LR
image, run, and added to the output under its weights, which sum to one at every pixel. A smaller output than x4 is
resized in the same step: weights and resizing are one linear map along either side. At the image's borders the network
sees a margin of repeated border that are cut off again, so that it is as good there as inside. Where the text is
known, the seams between tiles are laid where there is least of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE, ModelConfig
from ..errors import ConfigError
from ..images.resample import Span, resize_matrix, resize_window

# How much of the next tile there is, from 0 to 1 across the seam.
BLENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda x: torch.sin(x * torch.pi / 2).square(),
    "linear": lambda x: x,
    "none": lambda x: (x > 0.5).to(x.dtype),
}
WHOLE = 8  # LR pixels that the lengths of tiles are multiples of: the network pads none of them, or little
SEAM = 4  # with text-aware seams, one takes this share of the overlap: room to move within it
CENTERED = 0.05  # what a seam pays for lying at the overlap's edge, against one through nothing but text


class Window(NamedTuple):
    """A tile's place: which image of the batch, and LR pixels, which may lie in the margin outside the image."""

    image: int
    top: int
    left: int
    height: int
    width: int


class Tile(NamedTuple):
    """The network's result for a window, each (c, 4 height, 4 width), float32 on the CPU.

    colors: c 1 or 3; maps: the text mask, and the certainty where the model gives one; alpha: c 1.
    """

    colors: Tensor
    maps: Tensor
    alpha: Tensor | None = None


class Strip(NamedTuple):
    """Finished rows of one image: pixels (n, W, C) and maps (n, W, 1 or 2), from row `top` on."""

    image: int
    top: int
    pixels: Tensor
    maps: Tensor

    def cut(self, height: int) -> Iterator[Strip]:
        """Yield copies of it in pieces of so many rows, so that who waits to write one does not hold all of it."""
        for top in range(0, len(self.maps), height):
            pixels, maps = (part[top : top + height].clone() for part in (self.pixels, self.maps))
            yield Strip(self.image, self.top + top, pixels, maps)

    @property
    def mask(self) -> Tensor:
        """The text mask (n, W)."""
        return self.maps[..., 0]

    @property
    def certainty(self) -> Tensor | None:
        """Certainty of each pixel (n, W), None for a model without that output."""
        return self.maps[..., 1] if self.maps.shape[-1] > 1 else None


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sides in pixels of the x4 image; the authors tile at 768 with 256 shared. Raises ConfigError."""

    tile: int = 768
    overlap: int = 256
    batch: int = 1  # tiles run at once
    blend: str = "cosine"  # across the overlap, see BLENDS
    text_aware: bool = False  # seams where a coarse first pass finds least text
    margin: int = 8  # LR pixels of repeated border that the network sees around the image

    def __post_init__(self) -> None:
        if self.tile < 16 * SCALE:
            raise ConfigError(f"tile is {self.tile}, expected {16 * SCALE} or more.")
        if not 0 <= self.overlap <= self.tile // 2:
            raise ConfigError(f"overlap is {self.overlap}, expected 0 to half the tile, here {self.tile // 2}.")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}, expected 1 or more.")
        if self.margin < 0:
            raise ConfigError(f"margin is {self.margin}, expected 0 or more.")
        if self.blend not in BLENDS:
            raise ConfigError(f"blend is {self.blend!r}, expected one of {', '.join(BLENDS)}.")

    @property
    def pixels(self) -> int:
        """Count the pixels of a batch of tiles with their margins on both sides."""
        return self.batch * (self.tile + 2 * SCALE * self.margin) ** 2

    @property
    def on_lr(self) -> tuple[int, int]:
        """Tile and overlap in LR pixels."""
        return -(-self.tile // SCALE), self.overlap // SCALE


def choose_tiling(config: ModelConfig) -> Tiling:
    """Make the tiling of a model where none is given: its own overlap, cut to what fits into the tile."""
    return Tiling(overlap=fit_overlap(Tiling.tile, config.overlap))


def fit_overlap(tile: int, overlap: int) -> int:
    """Cut the overlap to half the tile, the most that tiles can share."""
    return min(overlap, tile // 2)


def list_starts(size: int, tile: int, overlap: int) -> list[int]:
    """List where the tiles begin along a side; the last one ends with the image."""
    if size <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, size - tile, step), size - tile]


def make_profiles(
    size: int, tile: int, overlap: int, *, blend: str = "cosine", text: Tensor | None = None
) -> list[Tensor]:
    """Compute each tile's weights along a side of `size`, blended in the overlaps; they sum to one everywhere.

    All in pixels of one grid. text (size,): how much of it each line of pixels crosses; given, each seam takes only a
    part of its overlap, where there is least. Returns one (min(tile, size),) tensor a tile, float32.
    """
    begins, length = list_starts(size, tile, overlap), min(tile, size)
    weights = torch.zeros(len(begins), size, dtype=torch.float64)
    weights[0] = 1
    edge = 0
    for i in range(1, len(begins)):
        zone = (max(begins[i], edge), begins[i - 1] + length)
        first, last = place_seam(zone, overlap, None if text is None else text)
        rise = BLENDS[blend]((torch.arange(last - first, dtype=torch.float64) + 0.5) / max(1, last - first))
        weights[i, first:last], weights[i, last:] = rise, 1
        weights[i - 1, first:last] *= 1 - rise
        weights[i - 1, last:] = 0
        edge = last
    return [weight[begin : begin + length].float() for begin, weight in zip(begins, weights, strict=True)]


def place_seam(zone: tuple[int, int], overlap: int, text: Tensor | None) -> tuple[int, int]:
    """Place the seam in the zone that two tiles share: in its middle, or where least text is."""
    width = min(overlap if text is None else max(1, overlap // SEAM), zone[1] - zone[0])
    room = zone[1] - zone[0] - width
    if text is None or room == 0 or width == 0:
        first = zone[0] + room // 2
        return first, first + width
    crossed = text[zone[0] : zone[1]].double().unfold(0, width, 1).mean(1)  # (room + 1,)
    off = torch.linspace(-1, 1, room + 1, dtype=torch.float64).abs()
    first = zone[0] + int((crossed / text.max().clamp_min(1e-6) + CENTERED * off).argmin())
    return first, first + width


def cover_side(size: int, tiling: Tiling) -> list[Span]:
    """List the tiles along a side of LR pixels, its margins included; a side that fits into a tile is one tile.

    All are of one length, the shortest that as many tiles need, so that no two share more than they are to.
    """
    tile, _ = tiling.on_lr
    padded = size + 2 * tiling.margin
    overlap = choose_overlap(size, tiling)
    length = padded if size <= tile else shortest_tile(padded, tile, overlap)
    return [(begin - tiling.margin, begin - tiling.margin + length) for begin in list_starts(padded, length, overlap)]


def shortest_tile(size: int, tile: int, overlap: int) -> int:
    """Compute the length of as many tiles along a side as those of `tile` are, each with its overlap; a multiple of WHOLE."""
    count = len(list_starts(size, tile, overlap))
    length = math.ceil((size + (count - 1) * overlap) / count)
    return min(tile, -(-length // WHOLE) * WHOLE)


def choose_overlap(size: int, tiling: Tiling) -> int:
    """Choose the overlap along a side of LR pixels: cut by up to half where the margins would take one more tile."""
    tile, overlap = tiling.on_lr
    count = len(list_starts(size, tile, overlap))
    if count == 1:
        return overlap
    fitted = tile - math.ceil((size + 2 * tiling.margin - tile) / (count - 1))
    return fitted if overlap // 2 <= fitted < overlap else overlap


def side_weights(size: int, tiling: Tiling, text: Tensor | None = None) -> list[Tensor]:
    """Compute the weights of the tiles of `cover_side` on the x4 grid, within the image: one tensor per tile.

    text (n,): how much text each line crosses, at any resolution.
    """
    spans, margin, overlap = cover_side(size, tiling), tiling.margin * SCALE, choose_overlap(size, tiling) * SCALE
    if text is not None:
        text = F.interpolate(text[None, None], size=size * SCALE, mode="linear", align_corners=False)
        text = F.pad(text, (margin, margin), mode="replicate")[0, 0]
    length = (spans[0][1] - spans[0][0]) * SCALE
    weights = make_profiles(size * SCALE + 2 * margin, length, overlap, blend=tiling.blend, text=text)
    return [
        weight[max(0, -begin) * SCALE : len(weight) - max(0, end - size) * SCALE]
        for weight, (begin, end) in zip(weights, spans, strict=True)
    ]


def grid_weights(
    height: int, width: int, tiling: Tiling, text: Tensor | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute the weights of the rows and of the columns of tiles on the x4 grid. text (h', w'): a text mask of any size."""
    lines = (None, None)
    if text is not None:
        sure = text.float().square()  # what is sure counts
        lines = (sure.mean(1), sure.mean(0))
    return side_weights(height, tiling, lines[0]), side_weights(width, tiling, lines[1])


def list_windows(images: int, height: int, width: int, tiling: Tiling) -> list[Window]:
    """List every tile of a batch of LR images, row by row."""
    rows, columns = (cover_side(side, tiling) for side in (height, width))
    return [
        Window(image, top, left, bottom - top, right - left)
        for image in range(images)
        for top, bottom in rows
        for left, right in columns
    ]


class Canvas:
    """Rows of one image's result that tiles are added to: (H, W, C) pixels, (H, W, k) maps, from row `top` on."""

    def __init__(
        self, full: tuple[int, int], size: tuple[int, int], channels: tuple[int, int], out: Out | None = None
    ) -> None:
        """full: x4, the tiles' grid; size: of the result; channels: of its pixels and of its maps.

        out: the whole result in zeros, else rows are added as they are needed.
        """
        self.full, self.size, self.whole = full, size, out is not None
        self.top = 0
        width = size[1]
        self.pixels, self.maps = out or (torch.zeros(0, width, channels[0]), torch.zeros(0, width, channels[1]))

    def add(self, tile: Tile, place: tuple[Span, Span], weights: tuple[Tensor, Tensor]) -> None:
        """Add what lies at `place` (rows, columns) of the x4 grid, under the weights of its rows and columns."""
        matrices, spans = [], []
        for span, weight, full, size in zip(place, weights, self.full, self.size, strict=True):
            outputs = span_of_pixels(span, full, size)
            matrices.append(None if full == size else resize_matrix(full, size, outputs, span) * weight)
            spans.append(outputs)
        (top, bottom), columns = spans[0], slice(*spans[1])
        self._reach(bottom)
        rows = slice(top - self.top, bottom - self.top)
        for part, target in self._targets(tile):
            added = (
                part * (weights[0][:, None] * weights[1]) if matrices[0] is None else matrices[0] @ part @ matrices[1].T
            )
            target[rows, columns] += added.permute(1, 2, 0)

    def _targets(self, tile: Tile) -> Iterator[tuple[Tensor, Tensor]]:
        yield tile.maps, self.maps
        colors = self.pixels.shape[2] - (tile.alpha is not None)
        yield tile.colors, self.pixels[..., :colors]
        if tile.alpha is not None:
            yield tile.alpha, self.pixels[..., -1:]

    def _reach(self, bottom: int) -> None:
        missing = bottom - self.top - len(self.maps)
        if missing > 0:
            self.pixels, self.maps = (lengthen(rows, missing) for rows in (self.pixels, self.maps))

    def finished(self, image: int, bottom: int, begun: int) -> Strip:
        """The rows from `begun` to `bottom`, to which nothing will be added any more; dropped unless `whole`."""
        rows = slice(begun - self.top, bottom - self.top)
        strip = Strip(image, begun, self.pixels[rows].clamp_(0, 1), self.maps[rows].clamp_(0, 1))
        if not self.whole:
            self.pixels, self.maps, self.top = self.pixels[rows.stop :].clone(), self.maps[rows.stop :].clone(), bottom
        return strip


def lengthen(rows: Tensor, count: int) -> Tensor:
    """Append `count` rows of zeros."""
    longer = rows.new_zeros(len(rows) + count, *rows.shape[1:])
    longer[: len(rows)] = rows
    return longer


Out = tuple[Tensor, Tensor]  # pixels (H, W, C) and maps (H, W, k) of one image's result


def span_of_pixels(span: Span, full: int, size: int) -> Span:
    """Compute which pixels of a side of `size` overlap `span` of the x4 grid."""
    if full == size:
        return span
    ratio = size / full
    reach = 2 * max(1.0, full / size)  # of the cubic, in pixels of the x4 grid
    return max(0, int((span[0] - reach) * ratio) - 1), min(size, int((span[1] + reach) * ratio) + 2)


def blend_tiles(
    run: Callable[[list[Window]], list[Tile]],
    shape: tuple[int, int, int],
    channels: tuple[int, int],
    *,
    tiling: Tiling,
    size: tuple[int, int] | None = None,
    text: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Strip]:
    """Run the network over a batch of LR images tile by tile, and yield the result in strips from top to bottom.

    run: windows -> tiles. shape: (B, h, w) of the LR images; channels: of the result's pixels and of its maps; size (H,
    W): of the result, None: x4. text (B, 1, h', w'): a coarse text mask of any size, for seams that go around it. out:
    pixels (B, H, W, C) and maps (B, H, W, k) in zeros that the result is added up in; without, rows are held only until
    they are given. progress(done, total) counts tiles.
    """
    images, height, width = shape
    full = (height * SCALE, width * SCALE)
    size = size or full
    plan = list_windows(images, height, width, tiling)
    tiles = run_in_batches(run, plan, tiling.batch, progress)
    for i in range(images):
        canvas = Canvas(full, size, channels, None if out is None else (out[0][i], out[1][i]))
        weights = grid_weights(height, width, tiling, None if text is None else text[i, 0])
        rows, columns = (
            list(zip(cover_side(side, tiling), along, strict=True))
            for side, along in zip((height, width), weights, strict=True)
        )
        begun = 0
        for number, (row, down) in enumerate(rows):
            for column, across in columns:
                place = clip_span(row, height), clip_span(column, width)
                canvas.add(crop_margin(next(tiles), row[0], column[0], place), place, (down, across))
            last = number + 1 == len(rows)
            bottom = size[0] if last else span_of_pixels(clip_span(rows[number + 1][0], height), full[0], size[0])[0]
            if bottom > begun:
                yield canvas.finished(i, bottom, begun)
                begun = bottom


def run_tiled(
    run: Callable[[Tensor, list[Window]], tuple[Tensor, Tensor]],
    lr: Tensor,
    *,
    tiling: Tiling,
    text: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run any network over a batch of LR images (B, 3, h, w) in [0, 1], tile by tile.

    run: enlarged tiles (n, 3, H, W) and their windows -> images (n, 3, H, W) and masks (n, 1, H, W). The rest as
    `blend_tiles` takes it. Returns (B, 3, 4h, 4w) and (B, 1, 4h, 4w), float32 on the CPU.
    """
    images, channels, height, width = lr.shape
    full = (height * SCALE, width * SCALE)
    out = (torch.zeros(images, *full, channels), torch.zeros(images, *full, 1))

    def run_windows(windows: list[Window]) -> list[Tile]:
        enlarged = torch.stack([resize_window(lr[window.image], full, *span_of_window(window)) for window in windows])
        colors, masks = run(enlarged, windows)
        return [Tile(*pair) for pair in zip(colors.float().cpu(), masks.float().cpu(), strict=True)]

    shape = (images, height, width)
    for _ in blend_tiles(run_windows, shape, (channels, 1), tiling=tiling, text=text, out=out, progress=progress):
        pass
    return out[0].permute(0, 3, 1, 2), out[1].permute(0, 3, 1, 2)


def span_of_window(window: Window) -> tuple[Span, Span]:
    """Compute rows and columns of a window on the x4 grid."""
    rows = (window.top * SCALE, (window.top + window.height) * SCALE)
    return rows, (window.left * SCALE, (window.left + window.width) * SCALE)


def cut_window(lr: Tensor, window: Window) -> Tensor:
    """Cut a window of LR images (B, C, h, w) -> (1, C, height, width); its margin repeats the border."""
    height, width = lr.shape[-2:]
    bottom, right = window.top + window.height, window.left + window.width
    margins = (max(0, -window.left), max(0, right - width), max(0, -window.top), max(0, bottom - height))
    piece = lr[window.image : window.image + 1, :, max(0, window.top) : bottom, max(0, window.left) : right]
    return F.pad(piece, margins, mode="replicate")


def clip_span(span: Span, size: int) -> Span:
    """Clip a tile's LR span to the image, on the x4 grid."""
    return max(0, span[0]) * SCALE, min(size, span[1]) * SCALE


def crop_margin(tile: Tile, top: int, left: int, place: tuple[Span, Span]) -> Tile:
    """Crop a tile to `place`, without the margin outside the image. top, left: of its window, in LR pixels."""
    (y0, y1), (x0, x1) = place
    rows = slice(y0 - top * SCALE, y1 - top * SCALE)
    columns = slice(x0 - left * SCALE, x1 - left * SCALE)
    return Tile(*(None if part is None else part[:, rows, columns] for part in tile))  # pyright: ignore[reportArgumentType]


def run_in_batches(
    run: Callable[[list[Window]], list[Tile]],
    plan: list[Window],
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Tile]:
    """Run the plan with so many tiles at once, and yield the tiles one by one."""
    for done in range(0, len(plan), batch):
        group = plan[done : done + batch]
        tiles = run(group)
        if progress is not None:
            progress(done + len(group), len(plan))
        while tiles:
            yield tiles.pop(0)
