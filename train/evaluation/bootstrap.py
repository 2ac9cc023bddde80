"""Bootstrap confidence intervals over images, with the same draws for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .metrics import Array

LEVEL = 95  # percent


@dataclass(frozen=True)
class Ratio:
    """A metric as what each image adds above and below the line, both (images,).

    A mean over images has ones below (zeros where an image has no value); a mean over lines the number of lines; an
    IoU its union.
    """

    above: Array
    below: Array

    @classmethod
    def mean(cls, values: Sequence[float | None]) -> Ratio:
        """Build the mean of values, one or None per image."""
        return cls(
            np.array([0.0 if value is None else value for value in values]),
            np.array([0.0 if value is None else 1.0 for value in values]),
        )

    @property
    def value(self) -> float | None:
        below = float(self.below.sum())
        return None if below == 0 else float(self.above.sum()) / below


def draw_samples(pictures: int, count: int, seed: int) -> Array:
    """Draw `count` bootstrap samples -> how often each image is in each, (count, images)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(pictures, np.full(pictures, 1 / pictures), size=count).astype(np.float64)


def confidence_interval(ratio: Ratio, drawn: Array) -> tuple[float, float] | None:
    """Compute the percentile interval of a metric; None if it has no value."""
    return _bounds(_resampled(ratio, drawn))


def difference_interval(ratio: Ratio, first: Ratio, drawn: Array) -> tuple[float, float, float] | None:
    """Compute the difference of two methods' metric on the same images, and its percentile interval."""
    if ratio.value is None or first.value is None:
        return None
    bounds = _bounds(_resampled(ratio, drawn) - _resampled(first, drawn))
    return None if bounds is None else (ratio.value - first.value, *bounds)


def _resampled(ratio: Ratio, drawn: Array) -> Array:
    above, below = drawn @ ratio.above, drawn @ ratio.below
    return np.divide(above, below, out=np.full(len(drawn), np.nan), where=below > 0)


def _bounds(values: Array) -> tuple[float, float] | None:
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
