"""From what is known of every image to the rows of report.json: values, intervals, differences, buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tadisr import ocr

from .backbones import Missing
from .bootstrap import Ratio, confidence_interval, difference_interval
from .lines import BUCKETS
from .methods import Method
from .metrics import Array, frechet_distance
from .record import Judged

DECIMALS = 6


@dataclass(frozen=True)
class Context:
    """Data shared by all rows."""

    engines: tuple[str, ...]  # the readers' labels; the first one's figures stand in the row itself
    drawn: Array  # see bootstrap.draws
    lpips: Missing | None  # None: it is there
    inception: Missing | None
    hr_features: Array | None  # (images, 2048)
    degradations: tuple[str, ...]  # of each image


def collect_ratios(judged: Sequence[Judged], engines: Sequence[str]) -> dict[str, Ratio]:
    """Collect every metric that is a mean or a share, by its name in the row; OCR metrics of further engines as
    `NAME@ENGINE`.
    """
    found = {
        name: Ratio.mean([one.values.get(name) for one in judged])
        for name in ("psnr", "ssim", "psnr_y", "ssim_y", "lpips")
    }
    hit, wrong, lost = np.array([one.mask or (0, 0, 0) for one in judged], np.float64).reshape(-1, 3).T
    found |= {"mask_iou": Ratio(hit, hit + wrong + lost), "mask_f1": Ratio(2 * hit, 2 * hit + wrong + lost)}
    for number, engine in enumerate(engines or [""]):
        end = f"@{engine}" if number else ""
        on, mask, touched, boxes = np.array(
            [one.on_lines.get(engine, (0, 0, 0, 0)) for one in judged], np.float64
        ).reshape(-1, 4).T  # fmt: skip
        found |= {f"mask_on_lines{end}": Ratio(on, mask), f"lines_masked{end}": Ratio(touched, boxes)}
        labels, lines, detected, spotted = np.array(
            [one.spotted.get(engine, (0, 0, 0, 0)) for one in judged], np.float64
        ).reshape(-1, 4).T  # fmt: skip
        for name, hits in (("det", detected), ("spot", spotted)):
            found |= {f"{name}_precision{end}": Ratio(hits, lines), f"{name}_recall{end}": Ratio(hits, labels)}
            found[f"{name}_f1{end}"] = Ratio(2 * hits, lines + labels)
        for part, suffix in (("lines", ""), ("labelled", "_label")):
            scores = [ocr.score_pairs(getattr(one, part).get(engine, [])) for one in judged]
            found[f"ocr_a{suffix}{end}"] = Ratio.mean([score and score.ocr_a for score in scores])
            found[f"ocr_a_strict{suffix}{end}"] = Ratio.mean([score and score.strict for score in scores])
            found[f"line_match{suffix}{end}"] = Ratio.mean([score and score.exact for score in scores])
    return found


def make_row(method: Method, judged: Sequence[Judged], first: Sequence[Judged], context: Context) -> dict[str, Any]:
    """Make one method's row. first: the first method's judged images, to which differences are computed."""
    values, reference = collect_ratios(judged, context.engines), collect_ratios(first, context.engines)
    result: dict[str, Any] = {
        "name": method.name,
        "kind": method.kind,
        "file": None if method.file is None else method.file.name,
        "digest": method.digest[:16],
        "pictures": len(judged),
        "engine": context.engines[0] if context.engines else None,
    }
    result |= {name: _round(ratio.value) for name, ratio in values.items() if "@" not in name}
    if context.lpips is not None:
        result["lpips"] = str(context.lpips)
    result["fid"] = compute_fid(judged, context)
    result |= count_lines(judged, context.engines[0] if context.engines else "")
    result["seconds"] = _round(float(np.median([one.values["seconds"] or 0.0 for one in judged])))
    result["engines"] = {
        engine: {
            name.split("@")[0]: _round(ratio.value)
            for name, ratio in values.items()
            if name.startswith(("ocr_a", "line_match", "det_", "spot_"))
            and (name.endswith(f"@{engine}") if number else "@" not in name)
        }
        | count_lines(judged, engine)
        for number, engine in enumerate(context.engines)
    }
    result["interval"] = {name: _rounds(confidence_interval(ratio, context.drawn)) for name, ratio in values.items()}
    result["difference"] = {
        name: _rounds(difference_interval(ratio, reference[name], context.drawn)) for name, ratio in values.items()
    }
    result["by"] = score_buckets(judged, context)
    return result


def count_lines(judged: Sequence[Judged], engine: str) -> dict[str, int]:
    """Count lines, images with text and labels."""
    lines = [len(one.lines.get(engine, [])) for one in judged]
    return {
        "lines": sum(lines),
        "pictures_with_text": sum(n > 0 for n in lines),
        "labels": sum(len(one.labelled.get(engine, [])) for one in judged),
    }


def compute_fid(judged: Sequence[Judged], context: Context) -> float | str | None:
    """Compute FID; a string says which file is missing."""
    if context.inception is not None:
        return str(context.inception)
    if context.hr_features is None or len(judged) < 2:
        return None
    return _round(
        frechet_distance(np.stack([one.features for one in judged if one.features is not None]), context.hr_features)
    )


def score_buckets(judged: Sequence[Judged], context: Context) -> dict[str, dict[str, dict[str, Any]]]:
    """Compute OCR-A by kind of line, all lines weighted equally, and by degradation every metric of the images."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    engine = context.engines[0] if context.engines else ""
    for kind, (classify, names) in BUCKETS.items():
        found[kind] = {}
        for name in names:
            chosen = [[pair for pair in one.lines.get(engine, []) if classify(pair.before) == name] for one in judged]
            below = np.array([float(len(pairs)) for pairs in chosen])
            if not below.any():
                continue
            above = {
                "ocr_a": [sum(pair.ocr_a for pair in pairs) for pairs in chosen],
                "ocr_a_strict": [sum(pair.ratio for pair in pairs) for pairs in chosen],
                "line_match": [sum(float(pair.before.text == pair.after.text) for pair in pairs) for pairs in chosen],
            }
            over = {metric: Ratio(np.array(sums, np.float64), below) for metric, sums in above.items()}
            found[kind][name] = {metric: _round(ratio.value) for metric, ratio in over.items()} | {
                "lines": int(below.sum()),
                "interval": {
                    metric: _rounds(confidence_interval(ratio, context.drawn)) for metric, ratio in over.items()
                },
            }
    found["degradation"] = {}
    for name in dict.fromkeys(sorted(context.degradations)):
        chosen = [one for one, kind in zip(judged, context.degradations, strict=True) if kind == name]
        values = collect_ratios(chosen, context.engines[:1])
        found["degradation"][name] = {metric: _round(ratio.value) for metric, ratio in values.items()} | {
            "pictures": len(chosen),
            **count_lines(chosen, engine),
        }
    return found


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)


def _rounds(values: tuple[float, ...] | None) -> list[float] | None:
    return None if values is None else [round(value, DECIMALS) for value in values]
