"""Step 5: HR images with their masks, text crops pasted onto backgrounds (Sec. 3.5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from tadisr.errors import ConfigError

from ..config import ComposeConfig, to_dict
from ..engine.journal import Record
from ..engine.step import Pixels, Step, hash_steps, open_source_of, read_gray, read_pixels, write_png
from .backgrounds import Backgrounds
from .enhance import Enhance

LUMA = np.array([0.299, 0.587, 0.114])
Place = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True, kw_only=True)
class Compose(Step):
    """Sample i depends on nothing but (seed, i) and the two pools. Records: what lies where."""

    name = "compose"

    enhance: Enhance
    backgrounds: Backgrounds

    def describe_settings(self) -> Record:
        own = {"compose": to_dict(self.config.compose), "seed": self.config.seed}
        return {**own, "enlarge": self.config.ground.enlarge, "after": hash_steps(self.enhance, self.backgrounds)}

    def list_chunks(self) -> dict[int, Any]:
        return {index: [index] for index in range(self.config.samples)}

    def __call__(self, chunk: Any) -> list[Record]:
        return [self.draw_sample(index) for index in chunk]

    def draw_sample(self, index: int) -> Record:
        c = self.config.compose
        crops, grounds = read_pool(self.enhance.pool), read_pool(self.backgrounds.pool)
        rng = np.random.default_rng([self.config.seed, index, 0])
        ground = grounds[pick_background(len(grounds), self.config.seed, index)]
        source = open_source_of(self.config.backgrounds[ground["background"]].source)
        canvas, window = cut_ground(source[ground["index"]].image, c.canvas, rng)
        count = min(int(rng.integers(c.count[0], c.count[1] + 1)), len(crops))
        chosen = [crops[int(i)] for i in rng.choice(len(crops), count, replace=False)]
        places = place_crops([tuple(crop["size"]) for crop in chosen], c, rng)
        mask = np.zeros((c.canvas, c.canvas), np.uint8)
        placed = list[Record]()
        for crop, place in zip(chosen, places, strict=True):
            if place is not None:
                folder = self.enhance.folder
                canvas = paste_crop(
                    canvas, mask, read_pixels(folder / crop["file"]), read_gray(folder / crop["mask"]), place, c
                )
                placed.append(self.provenance(crop, place))
        for record in placed:
            record["contrast"] = measure_contrast(canvas, mask, record["place"])
        name = f"{index + 1:07d}.png"
        write_png(self.out / "gt" / name, canvas)
        write_png(self.out / "mask" / name, mask)
        background = {"source": source.name, "key": ground["key"], "window": window}
        return {"sample": index, "seed": [self.config.seed, index], "background": background, "foregrounds": placed}

    def provenance(self, crop: Record, place: Place) -> Record:
        source = open_source_of(self.config.foregrounds[crop["foreground"]].source)
        names = ("id", "key", "box", "text", "mask_text", "score", "similarity", "label", "enhanced")
        return {
            "source": source.name,
            **{name: crop[name] for name in names},
            "place": list(place),
            "scale": round(max(place[2:]) / self.config.compose.canvas, 4),
            "line_height": round(min(place[2:]) / max(1, crop["lines"]), 1),
        }

    def written_files(self, record: Record) -> list[Path]:
        name = f"{record['sample'] + 1:07d}.png"
        return [self.out / "gt" / name, self.out / "mask" / name]

    def output_folders(self) -> list[Path]:
        return [self.folder, self.out / "gt", self.out / "mask"]


class Pool:
    """A file of crops or backgrounds, one a line, read as they are drawn: those of a full build are hundreds of MB, and
    every worker draws from them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.places = np.cumsum([0, *map(len, file)])

    def __len__(self) -> int:
        return len(self.places) - 1

    def __getitem__(self, index: int) -> Record:
        with self.path.open("rb") as file:
            file.seek(self.places[index])
            return json.loads(file.readline())


@lru_cache(maxsize=4)
def _pool(path: Path, version: int) -> Pool:
    return Pool(path)


def read_pool(path: Path) -> Pool:
    pool = _pool(path, path.stat().st_mtime_ns)
    if not len(pool):
        raise ConfigError(f"{path.parent.name} kept nothing: see the report for what was dropped and why.")
    return pool


def pick_background(count: int, seed: int, index: int) -> int:
    """Pick which of `count` backgrounds sample `index` has: all in random order, then all again in another order."""
    return int(_order(count, seed, index // count)[index % count])


@lru_cache(maxsize=4)
def _order(count: int, seed: int, lap: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, lap, 2]).permutation(count)


def cut_ground(picture: Pixels, canvas: int, rng: Generator) -> tuple[Pixels, list[int]]:
    """Cut a random canvas x canvas window, enlarging a smaller image; return it and the window's left, top, width, height in
    the image's own pixels.
    """
    height, width = picture.shape[:2]
    factor = max(1.0, canvas / min(height, width))
    if factor > 1:
        size = (max(canvas, round(width * factor)), max(canvas, round(height * factor)))
        picture = np.array(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    top, left = (int(rng.integers(side - canvas + 1)) for side in picture.shape[:2])
    window = [round(v / factor) for v in (left, top, canvas, canvas)]
    return np.ascontiguousarray(picture[top : top + canvas, left : left + canvas]), window


def place_crops(sizes: Sequence[tuple[int, ...]], c: ComposeConfig, rng: Generator) -> list[Place | None]:
    """Find a place for each crop (width, height) without overlaps; None where there is no room.

    Its long edge is a uniform share of the canvas; after `tries` places that overlap it shrinks, down to the least share.
    """
    placed = list[Place | None]()
    for width, height in sizes:
        scale = float(rng.uniform(*c.scale))
        if c.magnify is not None:
            scale = min(scale, max(c.scale[0], c.magnify * max(width, height) / c.canvas))
        place = None
        while place is None and scale >= c.scale[0]:
            factor = c.canvas * scale / max(width, height)
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            place = find_place(size, [p for p in placed if p is not None], c, rng)
            scale *= c.shrink
        placed.append(place)
    return placed


def find_place(size: tuple[int, int], taken: list[Place], c: ComposeConfig, rng: Generator) -> Place | None:
    for _ in range(c.tries):
        left, top = (int(rng.integers(c.canvas - side + 1)) for side in size)
        place = (left, top, *size)
        if not any(boxes_overlap(place, other) for other in taken):
            return place
    return None


def boxes_overlap(a: Place, b: Place) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def paste_crop(canvas: Pixels, mask: Pixels, crop: Pixels, crop_mask: Pixels, place: Place, c: ComposeConfig) -> Pixels:
    """Paste a crop on the canvas and its mask into `mask`, both resized by Lanczos."""
    left, top, width, height = place
    window = np.s_[top : top + height, left : left + width]
    crop, crop_mask = (
        np.array(Image.fromarray(array).resize((width, height), Image.Resampling.LANCZOS))
        for array in (crop, crop_mask)
    )
    mask[window] = crop_mask
    if c.edges == "poisson" and min(width, height) > 2:
        inner = np.full((height, width), 255, np.uint8)
        middle = (left + width // 2, top + height // 2)
        return cv2.seamlessClone(crop, canvas, inner, middle, cv2.NORMAL_CLONE)  # pyright: ignore[reportReturnType]
    if c.edges == "feather":
        y, x = (np.minimum(np.arange(side) + 1, side - np.arange(side)) / (c.feather + 1) for side in (height, width))
        alpha = np.minimum(1, np.minimum.outer(y, x))[..., None]
        crop = (canvas[window] + (crop.astype(float) - canvas[window]) * alpha).round().astype(np.uint8)
    canvas[window] = crop
    return canvas


def measure_contrast(canvas: Pixels, mask: Pixels, place: Sequence[int]) -> float | None:
    """Measure the difference of mean luma between the strokes and the ground between them, 0 to 1."""
    left, top, width, height = place
    window = np.s_[top : top + height, left : left + width]
    luma = canvas[window] @ LUMA / 255
    ink, paper = mask[window] >= 128, mask[window] < 26
    return round(float(abs(luma[ink].mean() - luma[paper].mean())), 4) if ink.any() and paper.any() else None
