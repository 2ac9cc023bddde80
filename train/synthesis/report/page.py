"""One HTML page that shows a build: what each step kept, what it dropped and why, samples, histograms."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tadisr.errors import ConfigError, TADiSRError

from ...page_policy import policy_meta
from ..config import SynthesisConfig, from_dict
from ..engine.journal import Record, read_lines, read_records, write_bytes
from ..engine.step import Pixels, read_pixels, source_of
from ..steps import backgrounds, filter
from ..steps.masks import load
from . import charts

EXAMPLES = 6  # of each reason
TRIPLETS = 12
STYLE = """
:root { --ink: #1d2433; --soft: #667085; --line: #e4e7ec; --bar: #3b6fd4; --drop: #d98a3d;
  --paper: #fff; --back: #f6f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #333b4a; --bar: #6f9cf0; --drop: #e0a25f;
    --paper: #1b2029; --back: #12151b } }
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; color: var(--ink); background: var(--back); margin: 0 }
main { max-width: 1180px; margin: 0 auto; padding: 24px }
h1 { font-size: 26px; margin: 8px 0 } h2 { font-size: 19px; margin: 36px 0 12px } h3 { font-size: 15px; margin: 20px 0 8px }
p, small { color: var(--soft) }
section, .card { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 16px }
.grid { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)) }
.examples { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)) }
.card { padding: 10px; overflow-wrap: anywhere }
.card img { max-width: 100%; max-height: 150px; display: block; margin-bottom: 6px; outline: 1px solid var(--line) }
.card h3 { margin-top: 4px }
.triplet { display: grid; grid-template-columns: repeat(3, 1fr); gap: 6px } .card .triplet img { width: 100%; max-height: none }
.triplets { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(520px, 1fr)) }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line) }
.bar { display: grid; grid-template-columns: 330px 1fr 120px; gap: 12px; align-items: center; padding: 3px 0 }
.bar i { display: block; height: 14px; border-radius: 3px; background: var(--bar) }
.bar.drop i { background: var(--drop) }
.bar.drop span:first-child { padding-left: 20px }
.bar span:last-child { text-align: right; font-variant-numeric: tabular-nums }
svg text { fill: var(--soft); font-size: 11px } svg rect { fill: var(--bar) } svg line { stroke: var(--line) }
"""


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


def find(out: Path) -> Found:
    path = out / "work" / "config.json"
    if not path.is_file():
        raise ConfigError(f"{out} is no build's folder: it has no work/config.json.")
    config = from_dict(json.loads(path.read_text(encoding="utf-8")))
    names = ("masks", "filter", "enhance", "backgrounds", "compose", "degrade")
    return Found(out, config, *(read_records(out / "work" / name / "journal.jsonl") for name in names))


def write_report(out: Path) -> Path:
    """`report.html`, pictures and all in the one file."""
    found = find(out)
    index = out / "index.jsonl"
    splits = Counter(row["split"] for row in read_lines(index)) if index.exists() else Counter[str]()
    head = (
        f"{splits.total()} samples, {splits['train']} train and {splits['test']} test" if splits
        else f"not whole yet: {len(found.composed)} of {found.config.samples} samples composed"
    )  # fmt: skip
    c = found.config
    parts = [
        f"<h1>FTSR build</h1><p>{head}. Seed {c.seed}, canvas {c.compose.canvas}, degradation {c.degrade.preset} "
        f"with {c.degrade.tools}, PP-OCR by {html.escape(c.reading.engine)}, masks by {html.escape(Path(c.segment.model).name)}"
        f" where a set has none, enhancement {html.escape(Path(c.enhance.model).name)}.</p>",
        "<h2>What each step kept</h2><section>" + funnel(found) + "</section>",
        "<h2>What the samples are like</h2><div class=grid>" + histograms(found) + "</div>",
        "<h2>Samples</h2><p>LR brought back to HR size, HR, mask.</p><div class=triplets>" + gallery(found) + "</div>",
        "<h2>Dropped, and why</h2>" + dropped(found),
        "<h2>Quarantined</h2><section>" + quarantined(found) + "</section>",
    ]
    page = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    page += policy_meta()
    page += f"<title>FTSR build</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"
    write_bytes(out / "report.html", page.encode())
    return out / "report.html"


# ---- its parts ------------------------------------------------------------------------------------------------------


def funnel(found: Found) -> str:
    """A bar for each count, what was dropped in another colour, scaled to the largest of its group."""
    kept = [crop for crop in found.crops if crop["status"] == "kept"]
    placed = sum(len(sample["foregrounds"]) for sample in found.composed)
    pictures = [("text pictures", len(found.pictures), False), *broken(found.pictures)]
    crops = [("crops in them", len(found.crops), False), *reasons(found.crops, filter.REASONS)]
    small = sum(record["enhanced"] > 1 for record in found.enhanced)
    crops += [("crops kept", len(kept), False), ("enhanced, being small", small, False)]
    grounds = [("backgrounds", len(found.grounds), False), *broken(found.grounds)]
    grounds += reasons(found.grounds, backgrounds.REASONS)
    grounds += [("backgrounds kept", sum(r["status"] == "kept" for r in found.grounds), False)]
    samples = [("samples asked for", found.config.samples, False), ("composed", len(found.composed), False)]
    samples += [("degraded", len(found.degraded), False)]
    pasted = bars([("crops pasted on them", placed, False)])
    groups = {"Text": bars(pictures) + bars(crops), "Backgrounds": bars(grounds), "Samples": bars(samples) + pasted}
    return "".join(f"<h3>{name}</h3>{rows}" for name, rows in groups.items())


def broken(records: list[Record]) -> list[tuple[str, int, bool]]:
    return [("broken", sum(record["status"] == "broken" for record in records), True)]


def reasons(records: list[Record], names: dict[str, str]) -> list[tuple[str, int, bool]]:
    counts = Counter(record["reason"] for record in records if record["status"] == "dropped")
    return [(f"dropped: {name}", counts[reason], True) for reason, name in names.items()]


def bars(rows: list[tuple[str, int, bool]]) -> str:
    most = max([count for _, count, _ in rows] + [1])
    first = max(1, rows[0][1])
    return "".join(
        f"<div class='bar{' drop' * drop}'><span>{html.escape(name)}</span><i style='width:{100 * count / most:.2f}%'></i>"
        f"<span>{count:,} <small>{100 * count / first:.1f} %</small></span></div>"
        for name, count, drop in rows
    )


def histograms(found: Found) -> str:
    placed = [f for sample in found.composed for f in sample["foregrounds"]]
    languages = Counter(language(f["text"]) for f in placed)
    contrasts = [f["contrast"] for f in placed if f["contrast"] is not None]
    figures = [
        ("Text size: line height in HR pixels", charts.histogram([f["line_height"] for f in placed], low=0)),
        ("Language of the pasted text", charts.columns(dict(languages.most_common()))),
        ("Contrast: luma of strokes against their ground", charts.histogram(contrasts, low=0, high=1)),
        ("Long edge, share of the canvas", charts.histogram([f["scale"] for f in placed], low=0, high=1)),
        (
            "Text crops in a sample",
            charts.columns(Counter(str(len(s["foregrounds"])) for s in found.composed), by_name=True),
        ),
        ("PSNR of the LR brought up, dB", charts.histogram([record["psnr"] for record in found.degraded])),
        (
            "Similarity of crop and mask, all crops",
            charts.histogram([c["similarity"] for c in found.crops], low=0, high=1),
        ),
        (
            "Long edge, pixels a character, all crops",
            charts.histogram([c["pixels_per_character"] for c in found.crops], low=0),
        ),
    ]
    return "".join(f"<div class=card><h3>{title}</h3>{chart}</div>" for title, chart in figures)


def gallery(found: Found) -> str:
    """Samples evenly from all that are finished."""
    count = len(found.degraded)
    chosen = sorted({round(i) for i in np.linspace(0, count - 1, min(TRIPLETS, count))}) if count else []
    cards = []
    for record in (found.degraded[i] for i in chosen):
        name = f"{record['sample'] + 1:07d}.png"
        images = [image(read_pixels(found.out / folder / name), 320) for folder in ("sr_bicubic", "gt", "mask")]
        texts = ", ".join(html.escape(f["text"]) for f in found.composed[record["sample"]]["foregrounds"])
        cards.append(
            f"<div class=card><div class=triplet>{''.join(images)}</div><b>{name[:-4]}</b> "
            f"<small>{record['psnr']:.2f} dB; {texts}</small></div>"
        )
    return "".join(cards) or "<p>None yet.</p>"


def dropped(found: Found) -> str:
    parts = []
    for reason, name in filter.REASONS.items():
        crops = spread([crop for crop in found.crops if crop["reason"] == reason])
        if crops:
            cards = "".join(crop_card(found, crop) for crop in crops)
            parts.append(f"<h3>Text crops: {html.escape(name)}</h3><div class=examples>{cards}</div>")
    for reason, name in backgrounds.REASONS.items():
        grounds = spread([ground for ground in found.grounds if ground.get("reason") == reason])
        if grounds:
            cards = "".join(ground_card(found, ground) for ground in grounds)
            parts.append(f"<h3>Backgrounds: {html.escape(name)}</h3><div class=examples>{cards}</div>")
    return "".join(parts) or "<p>Nothing was dropped.</p>"


def crop_card(found: Found, crop: Record) -> str:
    foreground = found.config.foregrounds[crop["foreground"]]
    left, top, right, bottom = crop["box"]
    try:
        item, mask = load(foreground, crop, found.out / "work" / "masks")
        pictures = image(item.image[top:bottom, left:right], 230)
        pictures += image(255 - mask[top:bottom, left:right, None].repeat(3, 2), 230)
    except TADiSRError as error:
        pictures = f"<small>{html.escape(str(error))}</small>"
    return f"<div class=card>{pictures}{html.escape(crop['why'])}<br><small>{html.escape(crop['key'])}</small></div>"


def ground_card(found: Found, ground: Record) -> str:
    try:
        picture = source_of(found.config.backgrounds[ground["background"]].source)[ground["index"]].image
        shown = image(picture, 230)
    except TADiSRError as error:
        shown = f"<small>{html.escape(str(error))}</small>"
    return f"<div class=card>{shown}{html.escape(ground['why'])}<br><small>{html.escape(ground['key'])}</small></div>"


def quarantined(found: Found) -> str:
    rows = [r for r in (*found.pictures, *found.grounds) if r["status"] == "broken"]
    if not rows:
        return "<p>Every picture could be read.</p>"
    cells = "".join(f"<tr><td>{html.escape(r['key'])}<td>{html.escape(r['reason'])}" for r in rows[:100])
    more = f"<p>and {len(rows) - 100} more in quarantine.jsonl</p>" if len(rows) > 100 else ""
    return f"<table><tr><th>picture<th>why{cells}</table>{more}"


def spread(records: list[Record]) -> list[Record]:
    """A few, evenly from all."""
    step = max(1, len(records) // EXAMPLES)
    return records[::step][:EXAMPLES]


def image(pixels: Pixels, width: int) -> str:
    """An <img> that carries its own bytes, at most so wide and twice as high; tiny ones are enlarged up to four times."""
    height = pixels.shape[0]
    factor = min(max(1.0, min(4.0, 64 / height)), width / pixels.shape[1], 2 * width / height)
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(height * factor)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}'>"


BLOCKS = {
    "Chinese": ((0x3400, 0x9FFF), (0x20000, 0x2FFFF)),
    "Japanese": ((0x3040, 0x30FF),),
    "Korean": ((0xAC00, 0xD7AF), (0x1100, 0x11FF)),
    "Cyrillic": ((0x0400, 0x04FF),),
    "Greek": ((0x0370, 0x03FF),),
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F)),
    "digits": ((0x30, 0x39),),
}


def language(text: str) -> str:
    """Whose letters most of it is; digits only where there are no letters."""
    counts = Counter(script for character in text for script in scripts(ord(character)))
    letters = [(count, script) for script, count in counts.items() if script != "digits"]
    if counts["Japanese"]:  # its Han characters are counted as Chinese
        return "Japanese"
    return max(letters)[1] if letters else "digits" if counts["digits"] else "signs"


def scripts(code: int) -> Iterable[str]:
    return (name for name, blocks in BLOCKS.items() if any(low <= code <= high for low, high in blocks))
