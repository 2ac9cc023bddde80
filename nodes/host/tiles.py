"""A tiling from a node's settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as mm

from ...tadisr.errors import ConfigError
from ...tadisr.inference.tiling import Tiling, fit_overlap
from .model_management import Loaded, estimate_activations

AUTO_TILE, AUTO_OVERLAP = 0, -1
SMALLEST = 128
SIDES = (768, 640, 512, 384, 256)  # to choose from; 768 is the authors' own
USED = 0.8  # of the free memory
MODEL_TOO_LARGE = "The model does not fit into the memory: load it with dtype fp16, bf16 or fp8, or free memory."


def make_tiling(
    tell: Callable[[str], object], *, tile: int, overlap: int, model: Loaded | None = None, **settings: Any
) -> Tiling:
    """Make a tiling from the settings of a node.

    tile: AUTO_TILE takes the largest of SIDES that fits into the free memory of the model's device. overlap:
    AUTO_OVERLAP takes what the model's config names; what is more than fits is cut, which is said. Raises ConfigError.
    """
    if tile == AUTO_TILE:
        tile = choose_tile(model, settings.get("batch", 1))
    elif tile < SMALLEST:
        raise ConfigError(f"tile is {tile}, expected {SMALLEST} or more, or {AUTO_TILE} to choose by the free memory.")
    if overlap == AUTO_OVERLAP:
        overlap = fit_overlap(tile, Tiling.overlap if model is None else model.network.config.overlap)
    fitting = fit_overlap(tile, overlap)
    if fitting < overlap:
        tell(f"The overlap of {overlap} is more than half a tile of {tile}: it is cut to {fitting}.")
    return Tiling(tile=tile, overlap=fitting, **settings)


def choose_tile(model: Loaded | None, batch: int = 1) -> int:
    """Return the largest of SIDES whose activations fit into the free memory, the smallest where none does."""
    if model is None:
        return SIDES[0]
    free = mm.get_free_memory(model.load_device) * USED

    def needed(side: int) -> int:
        pixels = Tiling(tile=side, overlap=0, batch=batch).pixels
        return estimate_activations(model.network, "all", pixels, guided=False)

    return next((side for side in SIDES if needed(side) <= free), SIDES[-1])
