"""The judge: every metric of the paper and more, for models, baselines and folders of results, side by side.

    python -m train.evaluate --data FTSR --model full=runs/full/model.safetensors --base Kolors --baseline bicubic -o report

writes report.json, report.md, report.tex, report.html, pictures.csv, lines.csv and the images made.
docs/training/evaluation.md says what every figure is. What is done is kept: the same command again computes only what is new.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tadisr import COMPACT, ocr
from tadisr.atomic_write import write_atomic
from tadisr.console import escape_unknown_characters
from tadisr.devices import choose_placement
from tadisr.errors import ConfigError, TADiSRError
from tadisr.inference.tiling import Tiling
from tadisr.model.precision import DTYPES
from tadisr.ocr import Reader

from .data.pairs import Pairs, open_pairs
from .evaluation import backbones, conventions, markup, methods, page, paper, rows, sheets, tables
from .evaluation.backbones import Missing
from .evaluation.bootstrap import draw_samples
from .evaluation.conventions import check_reader
from .evaluation.methods import Method
from .evaluation.record import Judge, Judged

log = logging.getLogger("train.evaluate")

FORMAT = "1"
SAYS = {
    "psnr": "RGB in 8 bits, all channels in one mean, peak 255, nothing cropped, 100 dB at most; mean over images",
    "ssim": "RGB, 11x11 Gaussian of sigma 1.5 where it fits wholly, K1 0.01, K2 0.03; mean over channels, then images",
    "psnr_y, ssim_y": "the same of BT.601 luma in video range (16 to 235)",
    "lpips": "version 0.1 on whole images, mean over images",
    "fid": "of whole images by the TTUR Inception's 2048 pooled features; no mean over images, so without interval",
    "ocr_a": "the paper's: lines the reader finds in the HR image with enough confidence, the same boxes read in the "
    "result one at a time, (len1 + len2 - dist) / (len1 + len2) with plain Levenshtein distance; mean over an image's "
    "lines, then over images with text",
    "ocr_a_strict": "the same with a substitution counting 2, as the ratio of common libraries has it",
    "line_match": "the share of those lines that read letter for letter the same",
    "det_*, spot_*": "precision, recall and F1 of lines read in the result with confidence 0.5 and more, against labels with "
    "boxes: overlap of one half or more; spotted also reads the same, letter case and spaces aside; all images in one sum",
    "*_label": "the same three against what humans read, in their boxes",
    "mask_iou, mask_f1": "of the text mask at one half, all images' pixels in one sum",
    "mask_on_lines": "share of the text mask's pixels, at one half, in the boxes of lines the reader finds in the HR "
    "image at any confidence; all images in one sum",
    "lines_masked": "share of those lines with a twentieth of their box or more in the mask; all images in one sum",
    "seconds": "median an image, as measured when it was made",
}


@dataclass(frozen=True)
class Settings:
    """Settings of a report."""

    out: Path
    data_name: str | None = None
    draws: int = 1000
    seed: int = 0
    beside: tuple[Path, ...] = ()


def evaluate_methods(pairs: Pairs, judged_by: Judge, chosen: Sequence[Method], settings: Settings) -> dict[str, Any]:
    """Evaluate every method on every pair, write the report into `settings.out`, and return the content of report.json."""
    if not chosen:
        raise ConfigError("There is nothing to judge: give a model, a baseline or results.")
    check_names(chosen)
    everything: dict[str, list[Judged]] = {}
    for method in chosen:
        bar = tqdm(pairs, desc=method.name, unit="image", disable=None)
        everything[method.name] = [judged_by.judge(pair, method) for pair in bar]
    lpips, inception = (
        metric if isinstance(metric, Missing) else None for metric in (judged_by.lpips, judged_by.inception)
    )
    degradations, explained = group_degradations(pairs, judged_by)
    context = rows.Context(
        engines=tuple(reader.label for reader in judged_by.readers),
        drawn=draw_samples(len(pairs), settings.draws, settings.seed),
        lpips=lpips,
        inception=inception,
        hr_features=None if inception else np.stack([judged_by.hr_features(pair) for pair in pairs]),
        degradations=degradations,
    )
    first = everything[chosen[0].name]
    report: dict[str, Any] = {
        "format": FORMAT,
        "data": {
            "name": settings.data_name or paper.DATA_SETS.get(pairs.layout, pairs.folder.resolve().name),
            "folder": str(pairs.folder),
            "layout": pairs.layout,
            "split": pairs.split,
            "pictures": len(pairs),
            "degradation": explained,
        },
        "engines": list(context.engines),
        "minimum_confidence": judged_by.minimum,
        "bootstrap": {"draws": settings.draws, "seed": settings.seed},
        "conventions": SAYS | {"set": judged_by.conventions.says},
        "notes": collect_notes(pairs, judged_by),
        "rows": [rows.make_row(method, everything[method.name], first, context) for method in chosen],
    }
    write_report(report, everything, pairs, judged_by, chosen, settings)
    return report


def check_names(chosen: Sequence[Method]) -> None:
    """Check that every method's name is unique and can be a file name. Raises ConfigError."""
    for method in chosen:
        if not re.fullmatch(r"[^./\\][^/\\]*", method.name) or method.name in ("HR", "input"):
            raise ConfigError(
                f"{method.name!r} cannot be a method's name: it becomes a folder's. Give another, NAME=..."
            )
        if sum(other.name == method.name for other in chosen) > 1:
            raise ConfigError(f"Two methods are called {method.name}: give one of them another name, NAME=...")


def group_degradations(pairs: Pairs, judge: Judge) -> tuple[tuple[str, ...], str]:
    """Group the pairs by how degraded they are: a word per pair, and where it is from (degradation.json, {name: word}, or
    thirds by the input's PSNR).
    """
    file = pairs.folder / "degradation.json"
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        words = {Path(name).with_suffix("").as_posix() if Path(name).suffix else name: w for name, w in known.items()}
        missing = [pair.key for pair in pairs if not isinstance(words.get(pair.key), str)]
        if missing:
            raise ConfigError(f"{file} says nothing of {missing[0]} ({len(missing)} such): expected a word for each.")
        return tuple(words[pair.key] for pair in pairs), "As degradation.json says."
    values = np.array([judge.input_psnr(pair) for pair in pairs])
    if len(values) < 3:
        return ("all",) * len(values), "Too few images to tell them apart."
    low, high = np.percentile(values, [100 / 3, 200 / 3])
    words = (f"1 hardest third, under {low:.1f} dB", "2 middle third", f"3 easiest third, from {high:.1f} dB")
    explained = "Thirds by the PSNR of what the network is fed, the plain bicubic enlargement, against HR."
    return tuple(words[int(value >= low) + int(value >= high)] for value in values), explained


def collect_notes(pairs: Pairs, judge: Judge) -> list[str]:
    """Collect the notes that the report prints below its tables."""
    found = [f"Conventions {judge.conventions.name}: {judge.conventions.says}"]
    other = check_reader(judge.conventions, judge.readers)
    found += [other] if other else []
    for name, metric in (("LPIPS", judge.lpips), ("FID", judge.inception)):
        if isinstance(metric, Missing):
            found.append(f"{name} needs {metric.file}, which is not there; put it in its place and run the same again.")
        else:
            found.append(f"{name}: {metric.key}.")
    if not isinstance(judge.inception, Missing) and len(pairs) < 2048:
        found.append(f"A FID of {len(pairs)} images is far above that of many: compare only FIDs of the same images.")
    return found


# ---- writing --------------------------------------------------------------------------------------------------------


def write_report(
    report: dict[str, Any],
    everything: dict[str, list[Judged]],
    pairs: Pairs,
    judge: Judge,
    chosen: Sequence[Method],
    settings: Settings,
) -> None:
    """Write report.json, report.md, report.tex, the CSV files and the page."""
    beside = [read_report(path) for path in settings.beside]
    built = tables.make_tables(report, beside)
    head = f"# {markup.escape_markdown(report['data']['name'])}\n\n"
    listed = "".join(f"- {markup.escape_markdown(note)}\n" for note in report["notes"])
    says = "".join(f"- `{name}`: {text}\n" for name, text in report["conventions"].items())
    whole = (
        head
        + "\n".join(map(markup.format_markdown, built))
        + f"\n## Notes\n\n{listed}\n## What the figures are\n\n{says}"
    )
    _write(settings.out / "report.md", whole)
    _write(settings.out / "report.tex", "% needs \\usepackage{booktabs}\n" + "\n".join(map(markup.format_latex, built)))
    _write(settings.out / "pictures.csv", sheets.write_images_csv(everything, report["engines"]))
    _write(settings.out / "lines.csv", sheets.write_lines_csv(everything, report["engines"]))
    _write(
        settings.out / "report.html", page.render_report(report, built, everything, pairs, judge, chosen, settings.out)
    )
    _write(settings.out / "report.json", json.dumps(report, indent=1, ensure_ascii=False))


def read_report(path: Path) -> dict[str, Any]:
    """Read report.json of a folder. Raises ConfigError."""
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(f"There is no report {file}.")
    report = json.loads(file.read_text(encoding="utf-8"))
    if report.get("format") != FORMAT:
        raise ConfigError(f"{file} has format {report.get('format')!r}, expected {FORMAT!r}: make it anew.")
    return report


def _write(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


# ---- the command ----------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m train.evaluate", description="Judge models, baselines and results on pairs of images."
    )
    top.add_argument("--data", required=True, type=Path, help="a folder of FTSR, Real-CE, or with hr/ and lr/")
    top.add_argument("-o", "--out", required=True, type=Path, metavar="REPORT", help="folder of the report")
    top.add_argument(
        "--split",
        default="auto",
        choices=("auto", "all", "train", "test"),
        help="which part of the data (default: its test part where it has one, else all)",
    )
    top.add_argument("--limit", type=int, help="only so many images, evenly spread")
    top.add_argument(
        "--data-name", metavar="NAME", help="of the data in the tables: FTSR-TE and Real-CE-val are the paper's"
    )
    top.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a checkpoint of ours, any number (default: the compact model; `none`: no model)",
    )
    top.add_argument("--base", type=Path, help="folder of the frozen base, for adapters")
    top.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="bicubic|lanczos|[NAME=]esrgan:FILE|[NAME=]segmenter:FILE",
        help="a plain enlargement, any network that spandrel can load, or a text segmenter's mask; any number",
    )
    top.add_argument("--sam", type=Path, help="SAM's own sam_vit_*.pth, for a segmenter of Hi-SAM's")
    top.add_argument(
        "--results",
        action="append",
        default=[],
        metavar="[NAME=]DIR",
        help="a folder of finished images, named as the HR images; any number",
    )
    top.add_argument("--first", metavar="NAME", help="the method others are compared with (default: the first)")
    top.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="paddleocr|rapidocr[:MODELS]",
        help="who reads, with its folder of models; any number, the first counts (default: auto; `none`)",
    )
    top.add_argument(
        "--conventions",
        choices=tuple(conventions.CONVENTIONS),
        default="paper",
        help="SSIM's border and LPIPS's range: paper (as this project reads it) or authors (as their code) (default paper)",
    )
    top.add_argument("--min-confidence", type=float, default=0.8, help="of an HR image's line to count (default 0.8)")
    top.add_argument("--lpips-net", choices=("alex", "vgg"), default="alex", help="LPIPS's backbone (default alex)")
    top.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    top.add_argument("--dtype", choices=["auto", *DTYPES], default="auto", help="default: fp32 on a CPU, else fp16")
    top.add_argument("--tile", type=int, default=768, help="tile side in pixels of the 4x image (default 768)")
    top.add_argument("--overlap", type=int, default=256, help="pixels two tiles share (default 256)")
    top.add_argument("--bootstrap", type=int, default=1000, metavar="DRAWS", help="for the intervals (default 1000)")
    top.add_argument("--seed", type=int, default=0, help="of the draws (default 0)")
    top.add_argument(
        "--beside",
        action="append",
        default=[],
        type=Path,
        metavar="REPORT",
        help="a report on other data, whose rows fill the other half of the paper's Table 1",
    )
    top.add_argument("--cache", type=Path, help="where what is computed is kept (default: REPORT/cache); may be shared")
    return top  # fmt: skip


def choose_methods(arguments: argparse.Namespace) -> list[Method]:
    device, dtype = choose_placement(arguments)
    tiling = Tiling(tile=arguments.tile, overlap=arguments.overlap)
    models = arguments.model or [f"compact={COMPACT}"]
    chosen: list[Method] = [
        methods.make_model(text, base=arguments.base, device=device, dtype=dtype, tiling=tiling)
        for text in models
        if text != "none"
    ]
    chosen += [methods.make_baseline(text, device=device, sam=arguments.sam) for text in arguments.baseline]
    chosen += [methods.make_results(text) for text in arguments.results]
    if arguments.first is not None:
        if arguments.first not in [method.name for method in chosen]:
            raise ConfigError(f"--first names {arguments.first}, which is none of the methods.")
        chosen.sort(key=lambda method: method.name != arguments.first)
    return chosen


def choose_readers(texts: Sequence[str]) -> list[Reader]:
    if list(texts) == ["none"]:
        return []
    split = [text.partition(":") for text in texts or ["auto"]]
    return [ocr.open_reader(name, Path(folder) if colon else None) for name, colon, folder in split]


def run_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate what the command line asks for; return the content of report.json."""
    pairs = open_pairs(arguments.data, split=arguments.split)
    if arguments.limit is not None:
        if arguments.limit < 1:
            raise ConfigError(f"limit is {arguments.limit}, expected 1 or more.")
        step = max(1, len(pairs) / arguments.limit)
        kept = [pairs[int(i * step)] for i in range(min(arguments.limit, len(pairs)))]
        pairs = Pairs(kept, folder=pairs.folder, layout=pairs.layout, split=pairs.split)
    if arguments.bootstrap < 1:
        raise ConfigError(f"bootstrap is {arguments.bootstrap}, expected 1 or more draws.")
    chosen = choose_methods(arguments)
    device, _ = choose_placement(arguments)
    chosen_conventions = conventions.CONVENTIONS[arguments.conventions]
    judge = Judge(
        folder=arguments.cache or arguments.out / "cache",
        readers=choose_readers(arguments.engine),
        minimum=arguments.min_confidence,
        lpips=backbones.load_lpips(arguments.lpips_net, device, value_range=chosen_conventions.lpips_range),
        inception=backbones.load_inception(device),
        pictures=arguments.out / "pictures",
        conventions=chosen_conventions,
    )
    settings = Settings(
        arguments.out, arguments.data_name, arguments.bootstrap, arguments.seed, tuple(arguments.beside)
    )
    return evaluate_methods(pairs, judge, chosen, settings)


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit code 0, 1 for an error, 2 for wrong arguments, 130 when interrupted."""
    escape_unknown_characters()
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")
    try:
        report = run_command(arguments)
    except TADiSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is done is kept, the same command resumes", file=sys.stderr)
        return 130
    print(markup.format_markdown(tables.results_table(report)))
    print(f"{arguments.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
