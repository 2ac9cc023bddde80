"""The page of a report: its tables, and the lines and images that went worst, side by side with what was read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from tadisr import ocr
from tadisr.atomic_write import write_atomic
from tadisr.images import from_pixels, to_pil
from tadisr.visualization import overlays

from ..data.pairs import Pair, Pairs, Pixels
from ..pages import FOLDER, render_page
from .lines import BUCKETS
from .methods import Method
from .record import Judge, Judged
from .tables import Table

WORST_LINES = 24  # of the first method; a third of that of each other one
WORST_PICTURES = 8
MARGIN = 0.35  # of a line's height, around its box
LOW, WIDE = 56, 520  # pixels: a line is shown at least this high, at most this wide
SIDE = 720  # of a whole image


def render_report(
    report: dict[str, Any],
    tables: Sequence[Table],
    everything: dict[str, list[Judged]],
    pairs: Pairs,
    judge: Judge,
    chosen: Sequence[Method],
    out: Path,
) -> str:
    """Render the page; its crops are written into `out`/crops."""
    engine = report["engines"][0] if report["engines"] else ""
    shutil.rmtree(out / "crops", ignore_errors=True)  # those of a report before
    gallery = Gallery(pairs, judge, chosen, out / "crops")
    return fill_template(
        report=report,
        tables=tables,
        methods=[method.name for method in chosen],
        lines=collect_worst_lines(everything, engine, gallery) if engine else [],
        pictures=collect_worst_images(everything, engine, gallery),
    )


def fill_template(**values: Any) -> str:
    """Render evaluation.html.j2 with these values, its script and its policy."""
    script = (FOLDER / "evaluation.js").read_text("utf-8")
    return render_page("evaluation.html.j2", script=script, **values)


class Gallery:
    """Images of HR, input and every method for one pair at a time, and files of what is cut from them."""

    def __init__(self, pairs: Pairs, judge: Judge, chosen: Sequence[Method], folder: Path) -> None:
        self.pairs, self.judge, self.chosen, self.folder = pairs, judge, chosen, folder
        self._of: tuple[int, dict[str, Pixels]] | None = None

    def pictures(self, index: int) -> dict[str, Pixels]:
        if self._of is None or self._of[0] != index:
            pair: Pair = self.pairs[index]
            made = {method.name: self.judge.picture(pair, method) for method in self.chosen}
            self._of = index, {"HR": pair.hr, "input": pair.upscaled, **made}
        return self._of[1]

    def save(self, name: str, picture: Image.Image) -> str:
        """Save an image, and return its address from the page."""
        path = self.folder / f"{name}.jpg"
        write_atomic(path, lambda temporary: picture.save(temporary, format="JPEG", quality=90, subsampling=0))
        return f"crops/{name}.jpg"


def collect_worst_lines(everything: dict[str, list[Judged]], engine: str, gallery: Gallery) -> list[dict[str, Any]]:
    """Collect the lines that each method reads worst, the first method's first."""
    picked: list[tuple[int, int]] = []
    for number, judged in enumerate(everything.values()):
        every = [(pair, i, j) for i, one in enumerate(judged) for j, pair in enumerate(one.lines[engine])]
        every.sort(key=lambda found: (found[0].ocr_a, -len(found[0].before.text), found[1], found[2]))
        picked += [(i, j) for pair, i, j in every[: WORST_LINES if number == 0 else WORST_LINES // 3] if pair.ocr_a < 1]
    first = next(iter(everything.values()))
    cards = {}
    for i, j in sorted(set(picked)):  # image by image, so that each is made once
        before = first[i].lines[engine][j].before
        shown = [{"name": "HR", "text": before.text, "score": None}, {"name": "input", "text": None, "score": None}]
        for name, judged in everything.items():
            pair = judged[i].lines[engine][j]
            shown.append({"name": name, "text": pair.after.text, "score": pair.ocr_a})
        for number, view in enumerate(shown):
            crop = crop_line(gallery.pictures(i)[view["name"]], before.box)
            view["file"] = gallery.save(f"line-{i:05d}-{j:03d}-{number}", crop)
        cards[i, j] = {
            "key": first[i].key,
            "line": j + 1,
            "kinds": [classify(before) for classify, _ in BUCKETS.values()],
            "shown": shown,
            "scores": [view["score"] for view in shown[2:]],
        }
    return [cards[at] for at in dict.fromkeys(picked)]


def collect_worst_images(everything: dict[str, list[Judged]], engine: str, gallery: Gallery) -> list[dict[str, Any]]:
    """Collect the images with the first method's lowest OCR-A, or PSNR without OCR; boxes are green where a line is right."""
    first = next(iter(everything.values()))

    def badness(i: int) -> tuple[float, float]:
        score = ocr.score_pairs(first[i].lines.get(engine, []))
        return (score.ocr_a if score else 2.0, first[i].values["psnr"] or 0.0)

    cards = []
    for i in sorted(range(len(first)), key=badness)[:WORST_PICTURES]:
        shown = []
        for number, (name, pixels) in enumerate(gallery.pictures(i).items()):
            judged = everything[name][i] if name in everything else None
            read = [] if not engine or name == "input" else (judged or first[i]).lines[engine]
            right = [name == "HR" or pair.before.text == pair.after.text for pair in read]
            image = from_pixels(pixels)
            if read:
                boxes = [pair.before.box for pair in read]
                image = overlays.draw_boxes(image, boxes, [overlays.GREEN if good else overlays.RED for good in right])
            picture = to_pil(image)
            picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            texts = [
                {"text": pair.before.text if name == "HR" else pair.after.text, "right": good}
                for pair, good in zip(read, right, strict=True)
            ]
            score = ocr.score_pairs(read) if judged else None
            shown.append(
                {
                    "name": name,
                    "file": gallery.save(f"picture-{i:05d}-{number}", picture),
                    "psnr": judged.values["psnr"] if judged else None,
                    "ocr_a": score.ocr_a if score else None,
                    "texts": texts,
                }
            )
        cards.append({"key": first[i].key, "shown": shown})
    return cards


def crop_line(pixels: Pixels, box: ocr.Box) -> Image.Image:
    """Crop a line with a margin, its box drawn, enlarged if it is small."""
    height, width = pixels.shape[:2]
    (left, top), (right, bottom) = box.min(0), box.max(0)
    margin = MARGIN * min(right - left, bottom - top) + 2
    x0, y0 = max(0, int(left - margin)), max(0, int(top - margin))
    x1, y1 = min(width, int(np.ceil(right + margin))), min(height, int(np.ceil(bottom + margin)))
    image = from_pixels(pixels[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])
    factor = min(max(1.0, 2 * LOW / image.shape[2]), 2 * WIDE / image.shape[3])
    picture = to_pil(image)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    corners = [((float(x) - x0) * factor, (float(y) - y0) * factor) for x, y in box]
    ImageDraw.Draw(picture).line([*corners, corners[0]], fill=overlays.GREEN, width=1)
    return picture
