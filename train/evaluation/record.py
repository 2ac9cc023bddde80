"""The judging of one image, kept on disk as soon as it is done, so that a second run computes only what is new.

Everything is found by digests of what it was computed from: the images, the method, the backbone, the reader. A cache
may be shared by any number of reports.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from tadisr import ocr
from tadisr.atomic_write import write_atomic
from tadisr.errors import ConfigError
from tadisr.file_digest import hash_file
from tadisr.images import from_pixels
from tadisr.ocr import Line, Reader

from ..data.pairs import Pair, Pixels
from ..psnr import compute_psnr
from .backbones import Inception, Lpips, Missing
from .conventions import PAPER, Conventions
from .lines import read_labelled, spot_lines
from .methods import Made, Method
from .metrics import Array, compute_luma, compute_ssim, count_mask_on_lines, count_mask_pixels

SPOTTED = 0.5  # confidence from which a line read in a result counts as spotted

VERSION = "1"  # of what is kept; another one computes all anew


@dataclass
class Judged:
    """All scores of one image of one method."""

    key: str
    values: dict[str, float | None]  # psnr, ssim, psnr_y, ssim_y, lpips, seconds
    mask: Sequence[int] | None = None  # true positives, false positives, false negatives
    features: Array | None = None  # (2048,) of Inception
    lines: dict[str, list[ocr.Pair]] = field(default_factory=dict)  # by the reader's label: OCR-A's pairs
    labelled: dict[str, list[ocr.Pair]] = field(default_factory=dict)  # the same against what humans read
    on_lines: dict[str, Sequence[int]] = field(default_factory=dict)  # by the reader's label: metrics.mask_on_lines
    spotted: dict[str, Sequence[int]] = field(default_factory=dict)  # by the reader's label: lines.spot


@dataclass(frozen=True)
class Judge:
    """All that an image is judged with."""

    folder: Path  # of what is kept
    readers: Sequence[Reader]
    minimum: float  # confidence from which a line of the HR image counts
    lpips: Lpips | Missing
    inception: Inception | Missing
    pictures: Path | None = None  # where methods' images are written, a folder for each
    conventions: Conventions = PAPER

    def judge(self, pair: Pair, method: Method) -> Judged:
        """Compute every score of a method's result for a pair, or read it from the cache."""
        hr_digest = hash_file(pair.hr_path)
        source = method.source(pair)
        mask_digest = "" if pair.mask_path is None else hash_file(pair.mask_path)
        file = self.folder / "judged" / f"{_digest(VERSION, source, hr_digest, mask_digest)}.json"
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        work = Work(pair, lambda: self._make(pair, method, source))
        before = json.dumps(kept)

        if "values" not in kept:
            kept["values"] = _pixel_values(work.made.picture, work.hr)
            kept["seconds"] = work.seconds
            kept["mask"] = _mask_counts(work.made, pair)
        judged = Judged(pair.key, kept["values"] | {"seconds": kept["seconds"]}, kept["mask"])
        if self.conventions.ssim_padding != "valid":
            name = f"ssim {self.conventions.ssim_padding}"
            if name not in kept:
                kept[name] = _ssim_values(work.made.picture, work.hr, self.conventions.ssim_padding)
            judged.values |= kept[name]
        if isinstance(self.lpips, Lpips):
            if self.lpips.key not in kept:
                kept[self.lpips.key] = self.lpips(work.made.picture, work.hr)
            judged.values["lpips"] = kept[self.lpips.key]
        if isinstance(self.inception, Inception):
            judged.features = self._features(f"{source} {hr_digest}", lambda: work.made.picture)
        for reader in self.readers:
            found = self.found(pair, reader, hr_digest, lambda: work.hr)
            truth = ocr.select_countable(found, minimum=self.minimum)
            name = f"ocr {_digest(reader.label, str(self.minimum))}"
            if name not in kept:
                kept[name] = [line_to_json(one.after) for one in ocr.reread_lines(truth, work.output, reader)]
            after = [line_from_json(line) for line in kept[name]]
            judged.lines[reader.label] = [ocr.Pair(a, b) for a, b in zip(truth, after, strict=True)]
            name = f"mask {_digest(reader.label)}"
            if name not in kept:
                mask = work.made.mask
                kept[name] = None if mask is None else count_mask_on_lines(mask, [line.box for line in found])
            if kept[name] is not None:
                judged.on_lines[reader.label] = kept[name]
            if pair.label:
                name = f"label {_digest(reader.label, repr(pair.label))}"
                if name not in kept:
                    kept[name] = [
                        [line_to_json(a), line_to_json(b)] for a, b in read_labelled(pair.label, work.output, reader)
                    ]
                judged.labelled[reader.label] = [ocr.Pair(line_from_json(a), line_from_json(b)) for a, b in kept[name]]
                if any(label.box is not None for label in pair.label):
                    name = f"spot {_digest(reader.label, repr(pair.label), str(SPOTTED))}"
                    if name not in kept:
                        lines = [line for line in reader.read(work.output) if line.score >= SPOTTED]
                        kept[name] = spot_lines(pair.label, lines)
                    judged.spotted[reader.label] = kept[name]
        if json.dumps(kept) != before:
            _write_json(file, kept)
        return judged

    def found(self, pair: Pair, reader: Reader, hr_digest: str, hr: Callable[[], Pixels]) -> list[Line]:
        """Read all lines of the HR image, once for each reader."""
        file = self.folder / "truth" / _digest(VERSION, reader.label)[:16] / f"{hr_digest}.json"
        if not file.is_file():
            _write_json(file, [line_to_json(line) for line in reader.read(from_pixels(hr()))])
        return [line_from_json(line) for line in json.loads(file.read_text(encoding="utf-8"))]

    def input_psnr(self, pair: Pair) -> float:
        """Compute the PSNR of the network's input, the resized LR image."""
        file = self.folder / "input" / f"{_digest(VERSION, hash_file(pair.lr_path), hash_file(pair.hr_path))}.json"
        if not file.is_file():
            _write_json(file, compute_psnr(pair.upscaled, pair.hr))
        return json.loads(file.read_text("utf-8"))

    def picture(self, pair: Pair, method: Method) -> Pixels:
        """Compute a method's result again, to show it."""
        return self._make(pair, method, method.source(pair))[0].picture

    def hr_features(self, pair: Pair) -> Array:
        """Compute the Inception features of the HR image."""
        return self._features(f"hr {hash_file(pair.hr_path)}", lambda: pair.hr)

    def _features(self, source: str, picture: Callable[[], Pixels]) -> Array:
        if isinstance(self.inception, Missing):
            raise ConfigError(str(self.inception))
        file = self.folder / "features" / f"{_digest(VERSION, self.inception.key, source)}.npy"
        if not file.is_file():
            features = self.inception(picture())
            write_atomic(file, lambda temporary: Path(temporary).write_bytes(_npy(features)))
        return np.load(file)

    def _make(self, pair: Pair, method: Method, source: str) -> tuple[Made, float]:
        """A method's image and the seconds it took; from disk where a run before has left it there."""
        if self.pictures is None or not method.keeps:
            begun = time.perf_counter()
            return method.make(pair), time.perf_counter() - begun
        stem = self.pictures / method.name / pair.key
        paths = [stem.with_name(f"{stem.name}{end}") for end in (".png", "_mask.png", ".json")]
        picture, mask, note = paths
        if note.is_file():
            known = json.loads(note.read_text(encoding="utf-8"))
            if known["source"] == source:
                kept_mask = np.array(Image.open(mask)) if mask.is_file() else None
                return Made(np.array(Image.open(picture)), kept_mask), known["seconds"]
        begun = time.perf_counter()
        made = method.make(pair)
        seconds = time.perf_counter() - begun
        note.unlink(missing_ok=True)
        mask.unlink(missing_ok=True)
        _write_picture(picture, made.picture)
        if made.mask is not None:
            _write_picture(mask, made.mask)
        _write_json(note, {"source": source, "seconds": seconds})
        return made, seconds


class Work:
    """A pair's images, read or made when first asked for."""

    def __init__(self, pair: Pair, make: Callable[[], tuple[Made, float]]) -> None:
        self._pair, self._make = pair, make
        self._made: tuple[Made, float] | None = None
        self._hr: Pixels | None = None

    @property
    def hr(self) -> Pixels:
        if self._hr is None:
            self._hr = self._pair.hr
        return self._hr

    @property
    def made(self) -> Made:
        if self._made is None:
            self._made = self._make()
        return self._made[0]

    @property
    def seconds(self) -> float:
        _ = self.made
        assert self._made is not None
        return self._made[1]

    @property
    def output(self) -> Tensor:
        return from_pixels(self.made.picture)


def _pixel_values(picture: Pixels, hr: Pixels) -> dict[str, float]:
    y, y_hr = compute_luma(picture), compute_luma(hr)
    return {"psnr": compute_psnr(picture, hr), "psnr_y": compute_psnr(y, y_hr), **_ssim_values(picture, hr, "valid")}


def _ssim_values(picture: Pixels, hr: Pixels, padding: str) -> dict[str, float]:
    return {
        "ssim": compute_ssim(picture, hr, padding=padding),
        "ssim_y": compute_ssim(compute_luma(picture), compute_luma(hr), padding=padding),
    }


def _mask_counts(made: Made, pair: Pair) -> tuple[int, int, int] | None:
    target = pair.mask
    return None if made.mask is None or target is None else count_mask_pixels(made.mask, target)


def line_to_json(line: Line) -> dict[str, Any]:
    return {"text": line.text, "score": line.score, "box": np.asarray(line.box, np.float64).tolist()}


def line_from_json(line: dict[str, Any]) -> Line:
    return Line(line["text"], line["score"], np.array(line["box"], np.float32))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _npy(array: Array) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False)
    write_atomic(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def _write_picture(path: Path, pixels: Pixels) -> None:
    write_atomic(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
