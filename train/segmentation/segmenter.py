"""The interface of a segmenter: images -> probabilities of text stroke."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Mask = NDArray[np.float32]


class Segmenter(Protocol):
    name: str
    digest: str  # sha256 of its weights: what a mask's provenance names

    def __call__(self, images: list[Picture]) -> list[Mask]:
        """(h, w, 3) RGB images of any sizes -> (h, w) probabilities of text stroke."""
        ...


def quantize_mask(mask: Mask, threshold: float | None = 0.5) -> NDArray[Any]:
    """Convert probabilities (h, w) to uint8: 0 or 255 by the threshold, or all levels if it is None."""
    if threshold is not None:
        return np.where(mask > threshold, 255, 0).astype(np.uint8)
    return (mask.clip(0, 1) * 255).round().astype(np.uint8)
