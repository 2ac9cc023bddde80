"""Score a segmenter against masks drawn by hand."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from ..data.sources import Source, SourceError
from .segmenter import Segmenter


def score_segmenter(
    segmenter: Segmenter, sources: list[Source], limit: int, *, threshold: float = 0.5
) -> dict[str, float]:
    """Compute the foreground IoU and F-score over all pixels of at most `limit` items, evenly spaced. Raises SourceError."""
    both = found = truth = 0
    pairs = [(source, i) for source in sources for i in range(len(source))]
    chosen = np.linspace(0, len(pairs) - 1, min(limit, len(pairs))).round().astype(int)
    for source, i in tqdm([pairs[j] for j in chosen], "score", leave=False, mininterval=2):
        item = source[i]
        if item.mask is None:
            raise SourceError(f"{source.name}: {item.key} has no mask to judge by.")
        mask, real = segmenter([item.image])[0] > threshold, item.mask > 127
        both, found, truth = both + int((mask & real).sum()), found + int(mask.sum()), truth + int(real.sum())
    return {"fgIoU": both / max(1, found + truth - both), "F": 2 * both / max(1, found + truth)}
