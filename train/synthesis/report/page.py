"""One HTML page that shows a build: what each step kept, what it dropped and why, samples, histograms."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tadisr.errors import ConfigError, TADiSRError

from ...pages import render_page
from ..config import SynthesisConfig, from_dict
from ..engine.journal import Record, read_lines, read_records, write_bytes
from ..engine.step import Pixels, open_source_of, read_pixels
from ..steps import backgrounds, filter
from ..steps.masks import load_masked
from . import charts

EXAMPLES = 6  # of each reason
TRIPLETS = 12


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("report", help="show what a build kept, dropped and made: report.html")
    parser.add_argument("folder", type=Path, help="a build's folder, whole or not")
    parser.set_defaults(run=lambda arguments: print(write_report(arguments.folder)) or 0)


@dataclass(frozen=True)
class Found:
    """Everything a build's folder says of itself."""

    out: Path
    config: SynthesisConfig
    pictures: list[Record]
    crops: list[Record]
    enhanced: list[Record]
    grounds: list[Record]
    composed: list[Record]
    degraded: list[Record]


def read_build(out: Path) -> Found:
    """Read what a build's folder records. Raises ConfigError if it is none."""
    path = out / "work" / "config.json"
    if not path.is_file():
        raise ConfigError(f"{out} is no build's folder: it has no work/config.json.")
    config = from_dict(json.loads(path.read_text(encoding="utf-8")))
    names = ("masks", "filter", "enhance", "backgrounds", "compose", "degrade")
    return Found(out, config, *(read_records(out / "work" / name / "journal.jsonl") for name in names))


def write_report(out: Path) -> Path:
    """Write report.html, its images inside it; return its path. Raises ConfigError for another folder."""
    found = read_build(out)
    index = out / "index.jsonl"
    splits = Counter(row["split"] for row in read_lines(index)) if index.exists() else Counter[str]()
    state = (
        f"{splits.total()} samples, {splits['train']} train and {splits['test']} test" if splits
        else f"not complete yet: {len(found.composed)} of {found.config.samples} samples composed"
    )  # fmt: skip
    c = found.config
    page = render_page(
        "build.html.j2",
        head=f"{state}. Seed {c.seed}, canvas {c.compose.canvas}, degradation {c.degrade.preset} with {c.degrade.tools}, "
        f"PP-OCR by {c.reading.engine}, masks by {Path(c.segment.model).name} where a set has none, enhancement "
        f"{Path(c.enhance.model).name}.",
        funnel=count_kept(found),
        charts=draw_charts(found),
        samples=show_samples(found),
        dropped=show_dropped(found),
        broken=[row for row in (*found.pictures, *found.grounds) if row["status"] == "broken"],
    )
    write_bytes(out / "report.html", page.encode())
    return out / "report.html"


# ---- its parts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """A count of the funnel; `dropped` counts are drawn in another colour."""

    name: str
    count: int
    dropped: bool = False


def count_kept(found: Found) -> dict[str, list[list[Bar]]]:
    """Count what entered each step, what it dropped by reason and what it kept: groups of bars by title."""
    kept = sum(crop["status"] == "kept" for crop in found.crops)
    text = [Bar("text images", len(found.pictures)), count_broken(found.pictures)]
    crops = [
        Bar("crops in them", len(found.crops)),
        *count_reasons(found.crops, filter.REASONS),
        Bar("crops kept", kept),
    ]
    crops += [Bar("enhanced, being small", sum(record["enhanced"] > 1 for record in found.enhanced))]
    grounds = [Bar("backgrounds", len(found.grounds)), count_broken(found.grounds)]
    grounds += count_reasons(found.grounds, backgrounds.REASONS)
    grounds += [Bar("backgrounds kept", sum(r["status"] == "kept" for r in found.grounds))]
    samples = [Bar("samples asked for", found.config.samples), Bar("composed", len(found.composed))]
    samples += [Bar("degraded", len(found.degraded))]
    pasted = Bar("crops pasted on them", sum(len(sample["foregrounds"]) for sample in found.composed))
    return {"Text": [text, crops], "Backgrounds": [grounds], "Samples": [samples, [pasted]]}


def count_broken(records: list[Record]) -> Bar:
    return Bar("broken", sum(record["status"] == "broken" for record in records), dropped=True)


def count_reasons(records: list[Record], names: dict[str, str]) -> list[Bar]:
    counts = Counter(record["reason"] for record in records if record["status"] == "dropped")
    return [Bar(f"dropped: {name}", counts[reason], dropped=True) for reason, name in names.items()]


def draw_charts(found: Found) -> list[tuple[str, str]]:
    """Draw the statistics of the samples as SVG, by title."""
    placed = [f for sample in found.composed for f in sample["foregrounds"]]
    languages = Counter(detect_language(f["text"]) for f in placed)
    contrasts = [f["contrast"] for f in placed if f["contrast"] is not None]
    return [
        ("Text size: line height in HR pixels", charts.draw_histogram([f["line_height"] for f in placed], low=0)),
        ("Language of the pasted text", charts.draw_columns(dict(languages.most_common()))),
        ("Contrast: luma of strokes against their ground", charts.draw_histogram(contrasts, low=0, high=1)),
        ("Long edge, share of the canvas", charts.draw_histogram([f["scale"] for f in placed], low=0, high=1)),
        (
            "Text crops in a sample",
            charts.draw_columns(Counter(str(len(s["foregrounds"])) for s in found.composed), by_name=True),
        ),
        ("PSNR of the LR brought up, dB", charts.draw_histogram([record["psnr"] for record in found.degraded])),
        (
            "Similarity of crop and mask, all crops",
            charts.draw_histogram([c["similarity"] for c in found.crops], low=0, high=1),
        ),
        (
            "Long edge, pixels a character, all crops",
            charts.draw_histogram([c["pixels_per_character"] for c in found.crops], low=0),
        ),
    ]


def show_samples(found: Found) -> list[dict[str, Any]]:
    """Load at most TRIPLETS of the finished samples, evenly spread."""
    count = len(found.degraded)
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, min(TRIPLETS, count))}) if count else []
    shown = []
    for record in (found.degraded[i] for i in chosen):
        name = f"{record['sample'] + 1:07d}"
        files = [found.out / folder / f"{name}.png" for folder in ("sr_bicubic", "gt", "mask")]
        texts = [f["text"] for f in found.composed[record["sample"]]["foregrounds"]]
        images = [encode_image(read_pixels(file), 320) for file in files]
        shown.append({"name": name, "images": images, "psnr": record["psnr"], "texts": texts})
    return shown


def show_dropped(found: Found) -> list[tuple[str, list[dict[str, Any]]]]:
    """Load at most EXAMPLES of what was dropped for each reason, by title."""
    groups = [
        (kind, title, pick_examples([record for record in records if record.get("reason") == reason]), show)
        for kind, reasons, records, show in (
            ("Text crops", filter.REASONS, found.crops, show_crop),
            ("Backgrounds", backgrounds.REASONS, found.grounds, show_background),
        )
        for reason, title in reasons.items()
    ]
    return [
        (f"{kind}: {title}", [show(found, record) for record in records])
        for kind, title, records, show in groups
        if records
    ]


def show_crop(found: Found, crop: Record) -> dict[str, Any]:
    foreground = found.config.foregrounds[crop["foreground"]]
    left, top, right, bottom = crop["box"]
    card: dict[str, Any] = {"why": crop["why"], "key": crop["key"], "images": [], "error": ""}
    try:
        item, mask = load_masked(foreground, crop, found.out / "work" / "masks")
        pieces = item.image[top:bottom, left:right], 255 - mask[top:bottom, left:right, None].repeat(3, 2)
        return card | {"images": [encode_image(piece, 230) for piece in pieces]}
    except TADiSRError as error:
        return card | {"error": str(error)}


def show_background(found: Found, ground: Record) -> dict[str, Any]:
    card: dict[str, Any] = {"why": ground["why"], "key": ground["key"], "images": [], "error": ""}
    try:
        image = open_source_of(found.config.backgrounds[ground["background"]].source)[ground["index"]].image
        return card | {"images": [encode_image(image, 230)]}
    except TADiSRError as error:
        return card | {"error": str(error)}


def pick_examples(records: list[Record]) -> list[Record]:
    """Pick at most EXAMPLES records, evenly spread."""
    step = max(1, len(records) // EXAMPLES)
    return records[::step][:EXAMPLES]


def encode_image(pixels: Pixels, width: int) -> str:
    """Encode an image as a JPEG data URL, at most `width` wide and twice as high; tiny ones are enlarged up to four times."""
    height = pixels.shape[0]
    factor = min(max(1.0, min(4.0, 64 / height)), width / pixels.shape[1], 2 * width / height)
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(height * factor)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


BLOCKS = {
    "Chinese": ((0x3400, 0x9FFF), (0x20000, 0x2FFFF)),
    "Japanese": ((0x3040, 0x30FF),),
    "Korean": ((0xAC00, 0xD7AF), (0x1100, 0x11FF)),
    "Cyrillic": ((0x0400, 0x04FF),),
    "Greek": ((0x0370, 0x03FF),),
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F)),
    "digits": ((0x30, 0x39),),
}


def detect_language(text: str) -> str:
    """Detect the script of most letters; digits only if there are no letters."""
    counts = Counter(script for character in text for script in list_scripts(ord(character)))
    letters = [(count, script) for script, count in counts.items() if script != "digits"]
    if counts["Japanese"]:  # its Han characters are counted as Chinese
        return "Japanese"
    return max(letters)[1] if letters else "digits" if counts["digits"] else "signs"


def list_scripts(code: int) -> Iterable[str]:
    return (name for name, blocks in BLOCKS.items() if any(low <= code <= high for low, high in blocks))
