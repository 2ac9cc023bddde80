"""A contact sheet: input, result, text mask and certainty beside one another, small enough to be looked at."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..atomic_write import write_atomic
from ..images import to_pil
from ..images.alpha import split_alpha
from ..images.resample import as_float, resize_matrix, shrink_image
from ..inference.tiling import Strip, span_of_pixels

LONGEST = 1024  # pixels of a panel's longer side
GAP = 8  # white pixels between panels
QUALITY = 92
COLUMNS = 64  # of a panel whose weights are computed at a time


class ContactSheet:
    """Collects the strips of a result that is never held as a whole."""

    def __init__(self, image: Tensor, size: tuple[int, int]) -> None:
        """image (1, C, h, w): the input, float or levels; size: (H, W) of the result."""
        factor = min(1.0, LONGEST / max(size))
        self.size = size
        self.panel = (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
        self.input = lay_on_white(shrink_image(image, self.panel))[0]
        self.result = torch.zeros(image.shape[1], *self.panel)
        self.maps = torch.zeros(0, *self.panel)
        spans = [(first, min(first + COLUMNS, self.panel[1])) for first in range(0, self.panel[1], COLUMNS)]
        self.across = torch.cat([resize_matrix(size[1], self.panel[1], span, (0, size[1])) for span in spans])

    def add(self, strip: Strip) -> None:
        """Add finished rows, shrunk to the panel."""
        span = (strip.top, strip.top + len(strip.maps))
        if not len(self.maps):
            self.maps = torch.zeros(strip.maps.shape[2], *self.panel)
        outputs = span_of_pixels(span, self.size[0], self.panel[0])
        down = resize_matrix(self.size[0], self.panel[0], outputs, span)
        rows = slice(*outputs)
        self.result[:, rows] += down @ strip.pixels.permute(2, 0, 1) @ self.across.T
        self.maps[:, rows] += down @ strip.maps.permute(2, 0, 1) @ self.across.T

    def save(self, path: Path) -> None:
        """Write the sheet as a JPEG."""
        panels = [self.input, lay_on_white(self.result[None])[0], *(one.expand(3, -1, -1) for one in self.maps)]
        gap = torch.ones(3, self.panel[0], GAP)
        parts = [part for panel in panels for part in (gap, panel)][1:]
        sheet = to_pil(torch.cat(parts, 2))
        write_atomic(path, lambda temporary: sheet.save(temporary, format="JPEG", quality=QUALITY))


def lay_on_white(image: Tensor) -> Tensor:
    """Composite (B, C, h, w), C from 1 to 4, on white -> (B, 3, h, w)."""
    colors, alpha = split_alpha(as_float(image))
    return colors if alpha is None else torch.lerp(torch.ones_like(colors), colors, alpha)
