"""Cut a pair on disk to one training sample of crop x crop: a window, the whole image resized, or an enlarged part.

    crop    a window at the image's own size; an image with a side under the crop is padded or enlarged (`smaller`)
    whole   the longest side resized to the crop, both sides rounded down to multiples of 32, the rest padded: how the
            authors' training code reads FTSR (1024 to 768) and Real-CE (longest side 512 or 768)
    zoom    with chance `zoom_share` the longest side is `zoom` times the crop, and a window is cut; else as `whole`: the
            authors' Real-CE stage (70 % of the samples, 2 to 6 times)

Images are resized by Lanczos. Padding repeats the border of LR and HR; the mask is 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from tadisr.config import SCALE
from tadisr.errors import ConfigError

from ..config import DataConfig, View

Pixels = NDArray[np.uint8]  # (H, W, 3), or (H, W) for a mask
Window = tuple[slice, slice]  # rows, columns

MULTIPLE = 32  # of the sides of a whole image


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Cut samples of crop x crop. middle: the middle window, nothing random, as validation needs it.

    Raises ConfigError for a crop that is no multiple of SCALE, a zoom below 1 or a share outside [0, 1].
    """

    view: View
    crop: int
    smaller: str = "pad"
    zoom: tuple[float, float] = (2.0, 6.0)
    zoom_share: float = 0.7
    middle: bool = False

    def __post_init__(self) -> None:
        if self.crop % SCALE or self.crop < MULTIPLE:
            raise ConfigError(f"crop is {self.crop}, expected a multiple of {SCALE}, {MULTIPLE} or more.")
        low, high = self.zoom
        if not 1 <= low <= high or not 0 <= self.zoom_share <= 1:
            raise ConfigError(
                f"zoom is {low}, {high} and zoom_share {self.zoom_share}, expected 1 <= low <= high and a share in [0, 1]."
            )

    @classmethod
    def from_config(cls, data: DataConfig, view: View | None, *, middle: bool) -> Viewer:
        """Build the viewer of a source; view None: the data config's."""
        return cls(
            view=view or data.view, crop=data.crop, smaller=data.smaller, zoom=data.zoom, zoom_share=data.zoom_share,
            middle=middle,
        )  # fmt: skip

    def fits(self, size: tuple[int, int]) -> bool:
        """Tell whether an image (height, width) is cut at its own size, without resizing or padding."""
        return self.view == "crop" and min(size) >= self.crop

    def place(self, size: tuple[int, int], rng: Generator) -> tuple[int, int]:
        """Draw a window's top and left in LR pixels, for an HR image (height, width)."""
        room = [max(0, side - self.crop) // SCALE for side in size]
        top, left = (r // 2 if self.middle else int(rng.integers(r + 1)) for r in room)
        return top, left

    def window(self, size: tuple[int, int], rng: Generator) -> Window:
        """Draw a window of an HR image (height, width); smaller than the crop where the image is."""
        top, left = (SCALE * at for at in self.place(size, rng))
        return slice(top, top + self.crop), slice(left, left + self.crop)

    def target(self, size: tuple[int, int], rng: Generator) -> tuple[int, int]:
        """Draw the (height, width) an image is resized to before its window is cut."""
        if self.view == "crop":
            if self.smaller == "pad" or min(size) >= self.crop:
                return size
            factor = self.crop / min(size)
            return max(self.crop, round(size[0] * factor)), max(self.crop, round(size[1] * factor))
        factor = self.crop / max(size)
        if self.view == "zoom" and not self.middle and rng.random() < self.zoom_share:
            factor *= rng.uniform(*self.zoom)
        height, width = (max(MULTIPLE, round(side * factor) // MULTIPLE * MULTIPLE) for side in size)
        return height, width

    def cut(self, images: list[Pixels], mask: Pixels | None, rng: Generator) -> tuple[list[Pixels], Pixels]:
        """Resize, cut and pad aligned images (H, W, 3) and their mask (H, W) alike -> crop x crop."""
        size = images[0].shape[:2]
        target = self.target(size, rng)
        window = self.window(target, rng)
        mask = np.zeros(size, np.uint8) if mask is None else mask
        cut = [resize_lanczos(image, target)[window] for image in images]
        missing = [self.crop - side for side in cut[0].shape[:2]]
        border = [(side // 2, side - side // 2) for side in missing]
        padded = [np.pad(image, [*border, (0, 0)], mode="edge") for image in cut]
        return padded, np.pad(resize_lanczos(mask, target)[window], border)


def resize_lanczos(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (height, width) by Lanczos, in 8 bits."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS))
