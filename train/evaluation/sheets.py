"""pictures.csv and lines.csv: every figure of a report, for those who want to count for themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from tadisr import ocr

from .lines import BUCKETS
from .record import Judged


def write_images_csv(everything: Mapping[str, Sequence[Judged]], engines: Sequence[str]) -> str:
    """Write one CSV row per image and method."""
    names = ("psnr", "ssim", "psnr_y", "ssim_y", "lpips", "seconds")
    table = [
        ["method", "picture", *names, *(f"{m} {e}" for e in engines for m in ("ocr_a", "strict", "exact", "lines"))]
    ]
    for method, judged in everything.items():
        for one in judged:
            scores = [ocr.score_pairs(one.lines[engine]) for engine in engines]
            read = [[s.ocr_a, s.strict, s.exact, s.lines] if s else ["", "", "", 0] for s in scores]
            values = [one.values.get(name) for name in names]
            table.append([method, one.key, *map(_text, values), *(_text(value) for part in read for value in part)])
    return _csv(table)


def write_lines_csv(everything: Mapping[str, Sequence[Judged]], engines: Sequence[str]) -> str:
    """Write one CSV row per line and method."""
    table = [["method", "picture", "engine", "line", *BUCKETS, "hr", "read", "ocr_a", "strict"]]
    for method, judged in everything.items():
        for one in judged:
            for engine in engines:
                for number, pair in enumerate(one.lines[engine], 1):
                    kinds = [classify(pair.before) for classify, _ in BUCKETS.values()]
                    texts = [pair.before.text, pair.after.text, _text(pair.ocr_a), _text(pair.ratio)]
                    table.append([method, one.key, engine, str(number), *kinds, *texts])
    return _csv(table)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _csv(table: list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(table)
    return buffer.getvalue()
