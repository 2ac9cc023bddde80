"""Find where a user edited a text mask, as opposed to changes by resizing the model's own mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.resample import resize_image

CELL = 8  # pixels of the x4 mask over which two masks are compared: 2 LR pixels
EDITED = 0.2  # resizing to LR and back moves a cell's mean by up to .14 (area, bilinear, bicubic)
TAKEN = 0.05  # where there are edits, cells that differ by this much belong to them


def merge_edits(own: Tensor, guide: Tensor) -> tuple[Tensor, Tensor] | None:
    """Put the edits of a guide onto the model's own mask; None where there are none.

    own (B, 1, H, W), guide (B, 1, h, w) of any size, both in [0, 1]. A guide is edited where the mean of a cell differs by
    more than EDITED; then every cell that differs by more than TAKEN is taken from it, with those around it. Returns the
    merged mask, equal to `own` elsewhere, and 1 where it was edited, else 0, both (B, 1, H, W).
    """
    height, width = own.shape[-2:]
    grid = (min(-(-height // CELL), guide.shape[-2]), min(-(-width // CELL), guide.shape[-1]))
    guide = guide.to(own)
    apart = (F.adaptive_avg_pool2d(own, grid) - F.adaptive_avg_pool2d(guide, grid)).abs()
    if apart.max() <= EDITED:
        return None
    taken = F.max_pool2d((apart > TAKEN).float(), 3, stride=1, padding=1)
    taken = F.interpolate(taken, size=(height, width))
    return torch.where(taken > 0, resize_image(guide, (height, width)).clamp(0, 1), own), taken
