"""Sources that need no data set: lines of rendered text with exact masks and labels, and procedural grounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from ..degradation.recipes import blur_image, make_gaussian_kernel
from ..text_rendering.backgrounds import Array, draw_background, draw_procedural, load_photos
from ..text_rendering.fonts import find_fonts, open_font
from ..text_rendering.scenes import draw_ink_color
from ..text_rendering.strings import draw_line
from .base import Item, SourceError, check_index

LATIN = 0.5  # share of lines in Latin letters where the fonts have Chinese too


class RenderedLines:
    """Crops as a text detector would cut them: one line, a little ground around it, some turned or in perspective.

    Item i depends on nothing but (seed, i). height: range of em heights in pixels. backgrounds: folders of photographs,
    none: procedural grounds. Raises ConfigError where no font is found.
    """

    kind = "rendered"

    def __init__(
        self,
        *,
        name: str,
        licence: str,
        count: int = 10_000,
        seed: int = 0,
        height: Sequence[float] = (24, 96),
        fonts: Sequence[str | Path] = ("/usr/share/fonts",),
        backgrounds: Sequence[str | Path] = (),
    ) -> None:
        if count < 1 or len(height) != 2 or not 8 <= height[0] <= height[1]:
            raise SourceError(f"rendered: count {count}, height {height}: expected 1 or more, and two sizes from 8 on.")
        self.name, self.licence, self.count, self.seed, self.height = name, licence, count, seed, tuple(height)
        self.fonts = find_fonts(tuple(map(Path, fonts)))
        self.photographs = load_photos([Path(folder) for folder in backgrounds])

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"{check_index(index, self.count):09d}"

    def __getitem__(self, index: int) -> Item:
        key = self.key(index)
        rng = np.random.default_rng([self.seed, int(key)])
        text, coverage = self._line(rng)
        ground = self._ground(coverage.shape, rng)
        color = draw_ink_color(ground[coverage < 0.5].mean(0), rng)
        picture = ground + (color - ground) * (coverage * rng.uniform(0.85, 1))[..., None]
        if rng.random() < 0.4:
            picture, coverage = warp_line(picture, coverage, rng)
        sigma = rng.uniform(0.2, 0.8)
        picture = blur_image(np.ascontiguousarray(picture, np.float32), make_gaussian_kernel(5, sigma, sigma, 0.0))
        return Item(key, _bytes(picture), _bytes(coverage), text)

    def _line(self, rng: Generator) -> tuple[str, Array]:
        """Return the text, and how much of each pixel the glyphs cover, (h, w) in [0, 1]."""
        script = "latin" if "chinese" not in self.fonts or rng.random() < LATIN else "chinese"
        text = draw_line(script, rng).strip()
        pixels = round(np.exp(rng.uniform(*np.log(self.height))))
        choices = self.fonts[script]
        font = open_font(*choices[int(rng.integers(len(choices)))], pixels)
        left, top, right, bottom = font.getbbox(text)
        pad = np.ceil(rng.uniform(0.1, 0.45, 4) * pixels)
        size = (int(right - left + pad[0] + pad[2]) + 1, int(bottom - top + pad[1] + pad[3]) + 1)
        canvas = Image.new("L", size)
        ImageDraw.Draw(canvas).text((pad[0] - left, pad[1] - top), text, font=font, fill=255)
        return text, np.asarray(canvas, np.float32) / 255

    def _ground(self, shape: tuple[int, ...], rng: Generator) -> Array:
        side = max(shape)
        return draw_background(side, self.photographs, rng)[: shape[0], : shape[1]]


def warp_line(picture: Array, coverage: Array, rng: Generator) -> tuple[Array, Array]:
    """Rotate slightly and view from the side; the canvas keeps its size, corners are filled by reflection."""
    height, width = coverage.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moved = corners + (rng.uniform(-0.12, 0.12, (4, 2)) * height).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners, moved)
    cubic, mirror = cv2.INTER_CUBIC, cv2.BORDER_REFLECT_101
    turned = cv2.warpPerspective(picture, matrix, (width, height), flags=cubic, borderMode=mirror)
    return turned, cv2.warpPerspective(coverage, matrix, (width, height), flags=cubic)


class Procedural:
    """Square grounds without any text: gradients, stripes, soft noise. For runs with no photographs."""

    kind = "procedural"

    def __init__(self, *, name: str, licence: str, count: int = 10_000, seed: int = 0, size: int = 1024) -> None:
        self.name, self.licence, self.count, self.seed, self.size = name, licence, count, seed, size

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"{check_index(index, self.count):09d}"

    def __getitem__(self, index: int) -> Item:
        key = self.key(index)
        picture = draw_procedural(self.size, np.random.default_rng([self.seed, int(key)]))
        return Item(key, _bytes(picture))


def _bytes(array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return (np.clip(array, 0, 1) * 255).round().astype(np.uint8)
