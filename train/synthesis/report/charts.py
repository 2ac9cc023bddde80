"""Small bar charts as SVG, for pages that carry everything in one file."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT, LEFT, FOOT, BINS = 320, 140, 34, 18, 24


def draw_histogram(values: Sequence[float], *, low: float | None = None, high: float | None = None) -> str:
    """Draw how many values lie in each of equal bins; values beyond the 99th percentile are in the last one."""
    if not values:
        return "<p>No values yet.</p>"
    array = np.asarray(values, float)
    start = float(array.min()) if low is None else low
    end = max(float(np.quantile(array, 0.99)) if high is None else high, start + 1e-6)
    counts, _ = np.histogram(array.clip(start, end), BINS, (start, end))
    ticks = [(share, f"{start + share * (end - start):.3g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    note = f"median {np.median(array):.3g}, mean {array.mean():.3g}, {len(array):,} values"
    return _chart([int(count) for count in counts], ticks, 1.0) + f"<small>{note}</small>"


def draw_columns(counts: Mapping[str, int], *, by_name: bool = False) -> str:
    """Draw a column per name."""
    if not counts:
        return "<p>No values yet.</p>"
    rows = sorted(counts.items()) if by_name else list(counts.items())
    ticks = [((i + 0.5) / len(rows), name) for i, (name, _) in enumerate(rows)]
    note = ", ".join(f"{html.escape(name)} {count:,}" for name, count in rows)
    return _chart([count for _, count in rows], ticks, 0.8) + f"<small>{note}</small>"


def _chart(counts: list[int], ticks: list[tuple[float, str]], fill: float) -> str:
    wide, high, most = WIDTH - LEFT - 12, HEIGHT - FOOT - 8, max(max(counts), 1)
    step = wide / len(counts)
    bars = "".join(
        f"<rect x='{LEFT + step * (i + (1 - fill) / 2):.1f}' y='{8 + high * (1 - count / most):.1f}' "
        f"width='{max(1.0, step * fill - 1):.1f}' height='{high * count / most:.1f}'/>"
        for i, count in enumerate(counts)
    )
    names = "".join(
        f"<text x='{LEFT + wide * at:.1f}' y='{HEIGHT - 4}' text-anchor='middle'>{html.escape(name)}</text>"
        for at, name in ticks
    )
    scale = f"<text x='{LEFT - 5}' y='16' text-anchor='end'>{most:,}</text>"
    scale += f"<text x='{LEFT - 5}' y='{8 + high}' text-anchor='end'>0</text>"
    base = f"<line x1='{LEFT}' x2='{LEFT + wide}' y1='{8 + high}' y2='{8 + high}'/>"
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='100%'>{bars}{base}{names}{scale}</svg>"
