"""Step 2: which crops are kept. PP-OCR reads the crop and its mask, and both must say the same (Sec. 3.5)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tadisr import ocr
from tadisr.images import from_pixels
from tadisr.ocr import Box, Line, Reader

from ...data.sources import Item
from ..config import FilterConfig, ForegroundConfig, ReadingConfig, to_dict
from ..engine.journal import Record
from ..engine.step import Pixels, Step, hash_steps, split_groups
from .masks import load_masked

AT_ONCE = 4
REASONS = {
    "unread": "nothing is read in it",
    "mask": "its mask reads differently",
    "label": "it reads differently from its label",
    "small": "its characters are too small",
    "empty": "its mask is empty",
}


@dataclass(frozen=True, kw_only=True)
class Filter(Step):
    """Records: crops, `kept` or `dropped` with the reason, with all that was read."""

    name = "filter"

    masks: Step
    pictures: tuple[Record, ...] = ()  # what `masks` found to be fine

    def describe_settings(self) -> Record:
        crops = [{"crops": f.crops, "margin": f.margin, "check": f.check} for f in self.config.foregrounds]
        own = {"filter": to_dict(self.config.filter), "reader": open_reader(self.config.reading).digest[:16]}
        return {**own, "crops": crops, "after": hash_steps(self.masks)}

    def list_chunks(self) -> dict[int, Any]:
        return dict(enumerate(split_groups(list(self.pictures), AT_ONCE)))

    def __call__(self, chunk: Any) -> list[Record]:
        read_by = open_reader(self.config.reading)
        records = list[Record]()
        for record in chunk:
            foreground = self.config.foregrounds[record["foreground"]]
            item, mask = load_masked(foreground, record, self.masks.folder)
            crops = score_crops(item, mask, foreground, self.config.filter, read_by)
            for number, crop in enumerate(crops):
                name = f"{record['foreground']}-{record['index']:09d}-{number:02d}"
                same = {key: record[key] for key in ("foreground", "index", "key", "mask")}
                records.append({"id": name, **same, **crop})
        return records

    def __getstate__(self) -> Record:
        return {**self.__dict__, "pictures": ()}  # the workers get them chunk by chunk


def open_reader(config: ReadingConfig) -> Reader:
    """Open PP-OCR with one thread, since processes run in parallel."""
    return ocr.open_reader(config.engine, None if config.models is None else Path(config.models), threads=1)


def score_crops(
    item: Item, mask: Pixels, foreground: ForegroundConfig, config: FilterConfig, engine: Reader
) -> list[Record]:
    """Score each crop of an image. The mask is read by OCR as dark text on a light background."""
    picture, painted = from_pixels(item.image), from_pixels(255 - mask[..., None].repeat(3, 2))
    height, width = mask.shape
    whole = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    if foreground.crops == "line":
        found = engine.read_boxes(picture, [whole])
    else:
        found = [line for line in engine.read(picture) if line.score >= config.confidence]
    again = engine.read_boxes(painted, [line.box for line in found])
    if foreground.crops == "cut":
        cuts = [
            ([one], [two], crop_around(one.box, foreground.margin, (height, width)))
            for one, two in zip(found, again, strict=True)
        ]
    else:
        cuts = [(found, again, (0, 0, width, height))]
    return [
        judge_crop(lines, masked, box, mask, item.label, config, check=foreground.check) for lines, masked, box in cuts
    ]


def crop_around(box: Box, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of an upright crop with the line in it, within the image."""
    sides = np.linalg.norm(box - np.roll(box, -1, 0), axis=1)
    pad = margin * sides.min()
    low, high = np.floor(box.min(0) - pad), np.ceil(box.max(0) + pad)
    left, top, right, bottom = (int(v) for v in (*low, *high))
    return max(0, left), max(0, top), min(size[1], right), min(size[0], bottom)


def judge_crop(
    lines: list[Line],
    masked: list[Line],
    box: tuple[int, int, int, int],
    mask: Pixels,
    label: str | None,
    c: FilterConfig,
    *,
    check: bool = True,
) -> Record:
    """Record what a crop reads, and the first reason to drop it. check false: an empty mask is the only reason."""
    text, mask_text = (normalize_text("".join(line.text for line in some)) for some in (lines, masked))
    left, top, right, bottom = box
    score = min((line.score for line in lines), default=0.0)
    similarity = ocr.text_ratio(text, mask_text)
    label_similarity = None if label is None else ocr.text_ratio(text, normalize_text(label))
    density = max(right - left, bottom - top) / max(1, len(text))
    reasons = {
        "unread": (not text or score < c.confidence, f"read {text!r} with confidence {score:.2f} of {c.confidence}"),
        "empty": (mask[top:bottom, left:right].max(initial=0) < 128, "no stroke in its mask"),
        "mask": (similarity < c.similarity, f"{text!r}, its mask {mask_text!r}: {similarity:.2f} of {c.similarity}"),
        "label": (
            label_similarity is not None and label_similarity < c.label,
            f"{text!r}, its label {label!r}: {label_similarity or 0:.2f} of {c.label}",
        ),
        "small": (density < c.long_edge, f"{density:.1f} pixels a character of {c.long_edge}"),
    }
    reason = next((name for name, (holds, _) in reasons.items() if holds and (check or name == "empty")), None)
    return {
        "status": "kept" if reason is None else "dropped",
        "reason": reason,
        "why": None if reason is None else reasons[reason][1],
        "box": list(box),
        "text": text,
        "mask_text": mask_text,
        "score": round(score, 4),
        "similarity": round(similarity, 4),
        "label": label,
        "label_similarity": None if label_similarity is None else round(label_similarity, 4),
        "lines": len(lines),
        "pixels_per_character": round(density, 2),
    }


def normalize_text(text: str) -> str:
    """Normalize each character and remove spaces, which PP-OCR does not read reliably."""
    return "".join(unicodedata.normalize("NFKC", text).split())
