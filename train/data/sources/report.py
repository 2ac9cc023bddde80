"""Report a source's contents: counts, sizes, masks, labels, broken files, terms of use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_all_start_methods, get_context
from typing import Any

import numpy as np

from . import Source, SourceError

AT_ONCE = 64  # items a worker is handed


@dataclass(frozen=True)
class Seen:
    """One item looked at. broken: why it could not be read."""

    key: str
    size: tuple[int, int] = (0, 0)  # width, height
    strokes: float | None = None  # share of the image that is text
    characters: int | None = None
    broken: str | None = None


@dataclass
class Report:
    """`looked_at` of `items` were decoded; the figures are theirs."""

    name: str
    kind: str
    licence: str
    items: int
    looked_at: int = 0
    width: dict[str, int] = field(default_factory=dict)
    height: dict[str, int] = field(default_factory=dict)
    with_mask: int = 0
    empty_masks: int = 0
    strokes: dict[str, float] = field(default_factory=dict)
    with_label: int = 0
    characters: dict[str, int] = field(default_factory=dict)
    broken: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        good = self.looked_at - len(self.broken)
        lines = [
            f"{self.name}: {self.items} items, {self.looked_at} looked at, {len(self.broken)} broken",
            f"  terms   {self.licence}",
            f"  width   {_spread(self.width)}   height {_spread(self.height)}",
            f"  masks   {self.with_mask} of {good}, {self.empty_masks} empty, text {_spread(self.strokes, '.1%')}",
            f"  labels  {self.with_label} of {good}, characters {_spread(self.characters)}",
        ]
        lines += [f"  broken  {row['key']}: {row['reason']}" for row in self.broken[:20]]
        if len(self.broken) > 20:
            lines.append(f"  broken  and {len(self.broken) - 20} more; --json has them all")
        return "\n".join(lines)


def _spread(values: dict[str, Any], form: str = "") -> str:
    return " / ".join(format(value, form) for value in values.values()) if values else "-"


def examine_item(source: Source, index: int) -> Seen:
    """Read one item and record its size, mask share and label, or why it cannot be read."""
    try:
        item = source[index]
    except SourceError as error:
        return Seen(source.key(index), broken=str(error))
    height, width = item.image.shape[:2]
    return Seen(
        item.key,
        (width, height),
        None if item.mask is None else float(item.mask.mean() / 255),
        None if item.label is None else len(item.label),
    )


def _look_many(source: Source, indices: list[int]) -> list[Seen]:
    return [examine_item(source, index) for index in indices]


def examine_source(source: Source, *, limit: int | None = None, workers: int = 0) -> Iterator[Seen]:
    """Examine every item, or `limit` evenly spaced ones, in order, in `workers` processes if there are any."""
    count = len(source) if limit is None else min(limit, len(source))
    indices = np.linspace(0, len(source) - 1, count).round().astype(int).tolist()
    if not workers:
        yield from (examine_item(source, index) for index in indices)
        return
    groups = [indices[start : start + AT_ONCE] for start in range(0, count, AT_ONCE)]
    way = "fork" if "fork" in get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, mp_context=get_context(way)) as pool:
        for seen in pool.map(_look_many, [source] * len(groups), groups):
            yield from seen


def summarize_source(source: Source, seen: list[Seen]) -> Report:
    """Summarize the examined items of a source."""
    report = Report(source.name, source.kind, source.licence, len(source), len(seen))
    good = [one for one in seen if one.broken is None]
    report.broken = [{"key": one.key, "reason": one.broken} for one in seen if one.broken is not None]
    report.width = _quantiles([one.size[0] for one in good])
    report.height = _quantiles([one.size[1] for one in good])
    strokes = [one.strokes for one in good if one.strokes is not None]
    report.with_mask, report.empty_masks = len(strokes), strokes.count(0)
    report.strokes = {} if not strokes else {"mean": float(np.mean(strokes))}
    characters = [one.characters for one in good if one.characters is not None]
    report.with_label, report.characters = len(characters), _quantiles(characters)
    return report


def _quantiles(values: list[int]) -> dict[str, int]:
    if not values:
        return {}
    least, middle, most = np.quantile(values, (0, 0.5, 1))
    return {"least": int(least), "median": int(middle), "most": int(most)}
