"""Estimate the time left of a job from its progress."""

from __future__ import annotations

import time
from collections.abc import Callable


class TimeLeft:
    """Estimates from the mean speed since it was made. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.begun = clock, clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.begun

    def seconds(self, share: float) -> float:
        """Estimate the seconds left when `share` of the work, above 0 to 1, is done."""
        return self.elapsed * (1 - share) / share

    def describe(self, done: int, total: int, unit: str) -> str:
        """Count and time left as in "tile 43 of 192, 13 min left"; when all is done, "192 tiles in 13 min"."""
        if done >= total:
            return f"{total} {unit}s in {format_duration(self.elapsed)}"
        return f"{unit} {done} of {total}, {format_duration(self.seconds(done / total))} left"


def format_duration(seconds: float) -> str:
    """Format seconds up to 90 s, then minutes up to 90 min, then hours and minutes."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"
