"""The preview of tiles."""

from __future__ import annotations

import pytest
import torch

from tadisr.inference.tiling import Tiling
from tadisr.visualization import overlays


@pytest.mark.parametrize(("blend", "overlap"), [("cosine", 128), ("none", 128), ("none", 0), ("cosine", 0)])
def test_seams_are_red_also_where_they_are_a_hard_line(blend: str, overlap: int) -> None:
    white = torch.ones(1, 3, 64, 112)
    drawn = overlays.draw_tiles(white, Tiling(tile=256, overlap=overlap, blend=blend, margin=0))
    red = (drawn[0, 0] > drawn[0, 1] + 0.2)[20]  # along one line of pixels
    assert red.any() and not red[:32].any() and not red[96:].any()
