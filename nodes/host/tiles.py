"""A tiling from a node's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...tadisr.inference.tiling import Tiling, fit_overlap


def make_tiling(tell: Callable[[str], object], *, tile: int, overlap: int, **settings: Any) -> Tiling:
    """Make a tiling whose overlap is cut to what fits, which is said."""
    fitting = fit_overlap(tile, overlap)
    if fitting < overlap:
        tell(f"The overlap of {overlap} is more than half a tile of {tile}: it is cut to {fitting}.")
    return Tiling(tile=tile, overlap=fitting, **settings)
