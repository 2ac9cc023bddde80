"""A small image of what is done so far: the dimmed input, over which finished tiles are laid as they come."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE
from ..images.resample import shrink_image

LONGEST = 512  # pixels of a preview's longer side
DIMMED = 0.4  # brightness of what is not done yet


class Preview:
    """Preview a batch of LR images (B, 3, h, w), float or levels, one at a time: the one whose tile came last."""

    def __init__(self, lr: Tensor) -> None:
        self.lr = lr
        self.factor = min(SCALE, LONGEST / max(lr.shape[-2:]))  # from LR pixels to the preview's
        self.shown: int | None = None

    def lay_tile(self, index: int, top: int, left: int, tile: Tensor) -> Tensor:
        """Lay an upscaled tile (3, 4h', 4w') at its LR place -> the preview (1, 3, H, W) in [0, 1]."""
        height, width = self.lr.shape[-2:]
        if index != self.shown:
            size = max(1, round(height * self.factor)), max(1, round(width * self.factor))
            self.shown, self.canvas = index, DIMMED * shrink_image(self.lr[index : index + 1], size)
        rows, columns = (
            (round(begin * self.factor), round((begin + length / SCALE) * self.factor))
            for begin, length in ((top, tile.shape[1]), (left, tile.shape[2]))
        )
        if rows[1] > rows[0] and columns[1] > columns[0]:
            small = F.interpolate(tile[None], size=(rows[1] - rows[0], columns[1] - columns[0]), mode="area")
            self.canvas[..., slice(*rows), slice(*columns)] = small.float().cpu()
        return self.canvas.clone()
