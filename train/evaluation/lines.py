"""Lines of text: what kind one is, so that small print can be looked at apart, and reading what humans have labelled."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from tadisr.ocr import TALL, Box, Line, Reader, text_ratio

from ..data.pairs import Label
from .metrics import quad_iou

SMALL, LARGE = 24, 48  # HR pixels of a box's height, about 1.4 times that of its letters
SLANTED = 5  # degrees

SIZES = (f"small print (under {SMALL} px)", f"medium ({SMALL} to {LARGE} px)", f"large ({LARGE} px and more)")
LANGUAGES = ("Latin", "Chinese", "both", "digits", "other")
ORIENTATIONS = ("level", "slanted", "vertical")


def measure_sides(box: Box) -> tuple[float, float]:
    """Measure width and height of a line's box along its own axes."""
    top, right, bottom, left = np.linalg.norm(box - np.roll(box, -1, 0), axis=1)
    return float(max(top, bottom)), float(max(right, left))


def classify_size(line: Line) -> str:
    """Classify a line by its height in pixels."""
    height = min(measure_sides(line.box))  # of a vertical line its width
    return SIZES[0] if height < SMALL else SIZES[1] if height < LARGE else SIZES[2]


def classify_language(line: Line) -> str:
    """Classify a line by the scripts of its letters."""
    names = {unicodedata.name(char, "").split(" ")[0] for char in line.text if unicodedata.category(char)[0] == "L"}
    chinese, latin = "CJK" in names, bool(names & {"LATIN", "FULLWIDTH"})
    if names - {"CJK", "LATIN", "FULLWIDTH"}:
        return "other"
    if chinese or latin:
        return "both" if chinese and latin else "Chinese" if chinese else "Latin"
    return "digits" if any(char.isdigit() for char in line.text) else "other"


def classify_orientation(line: Line) -> str:
    """Classify a line as level, slanted or vertical."""
    width, height = measure_sides(line.box)
    if height >= TALL * width:
        return "vertical"
    x, y = line.box[1] - line.box[0]
    return "slanted" if abs(np.degrees(np.arctan2(y, x))) > SLANTED else "level"


BUCKETS: dict[str, tuple[Callable[[Line], str], tuple[str, ...]]] = {
    "size": (classify_size, SIZES),
    "language": (classify_language, LANGUAGES),
    "orientation": (classify_orientation, ORIENTATIONS),
}


# ---- labels ---------------------------------------------------------------------------------------------------------

NOWHERE = np.zeros((4, 2), np.float32)


def read_labelled(labels: Sequence[Label], image: Tensor, reader: Reader) -> list[tuple[Line, Line]]:
    """Pair each label, as a line, with what the reader finds for it in an image (1, 3, H, W).

    A label with a box is read in its box. Those without are matched with the lines that are found in the image, one
    to one and so that the strict ratios' sum is largest; one that is left over is matched with an empty line.
    """
    boxed = [label for label in labels if label.box is not None]
    boxes = [np.array(label.box, np.float32) for label in boxed]
    known = [Line(label.text, 1.0, box) for label, box in zip(boxed, boxes, strict=True)]
    pairs = list(zip(known, reader.read_boxes(image, boxes), strict=True))
    free = [Line(label.text, 1.0, NOWHERE) for label in labels if label.box is None]
    return pairs + (match_lines(free, reader.read(image)) if free else [])


def match_lines(labels: Sequence[Line], lines: Sequence[Line]) -> list[tuple[Line, Line]]:
    """Match labels and lines one to one with the largest sum of strict ratios; a label left over gets an empty line."""
    ratios = np.zeros((len(labels), len(lines)))
    for i, label in enumerate(labels):
        ratios[i] = [text_ratio(label.text, line.text) for line in lines]
    partner = dict(zip(*linear_sum_assignment(ratios, maximize=True), strict=True))
    empty = Line("", 0.0, NOWHERE)
    return [(label, lines[partner[i]] if i in partner else empty) for i, label in enumerate(labels)]


# ---- spotting -------------------------------------------------------------------------------------------------------

SAME_PLACE = 0.5  # intersection over union from which a detected line counts as a labelled one


def spot_lines(labels: Sequence[Label], found: Sequence[Line]) -> tuple[int, int, int, int]:
    """Match detected lines with labels that have boxes, one to one -> labels, detections, detected, spotted.

    A label is detected where a line overlaps it by SAME_PLACE or more, spotted where that line also reads the same, letter
    case, spaces and width of characters aside. The matching has the most spotted, then the most overlap.
    """
    boxed = [label for label in labels if label.box is not None]
    overlaps, same = np.zeros((len(boxed), len(found))), np.zeros((len(boxed), len(found)), bool)
    for i, label in enumerate(boxed):
        overlaps[i] = [quad_iou(np.array(label.box), line.box) for line in found]
        same[i] = [normalize_text(label.text) == normalize_text(line.text) for line in found]
    near = overlaps >= SAME_PLACE
    rows, columns = linear_sum_assignment(np.where(near, overlaps + 2 * same, 0), maximize=True)
    detected = near[rows, columns]
    return len(boxed), len(found), int(detected.sum()), int((detected & same[rows, columns]).sum())


def normalize_text(text: str) -> str:
    """Remove spaces, letter case and width of characters from a text."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
