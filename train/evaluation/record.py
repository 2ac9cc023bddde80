"""The judging of one picture, kept on disk as soon as it is done, so that a second run computes only what is new.

Everything is found by digests of what it was computed from: the pictures, the method, the backbone, the reader. A cache
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
from tadisr.checkpoints.adapter import file_digest
from tadisr.errors import ConfigError
from tadisr.ocr import Line, Reader

from ..data.pairs import Pair, Pixels
from .backbones import Inception, Lpips, Missing
from .conventions import PAPER, Conventions
from .lines import read_labelled, spot
from .methods import Made, Method, as_image
from .metrics import Array, luma, mask_counts, mask_on_lines, psnr, ssim

SPOTTED = 0.5  # confidence from which a line read in a result counts as spotted

VERSION = "1"  # of what is kept; another one computes all anew


@dataclass
class Judged:
    """What is known of one picture of one method."""

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
    """All that a picture is judged with."""

    folder: Path  # of what is kept
    readers: Sequence[Reader]
    minimum: float  # confidence from which a line of the HR picture counts
    lpips: Lpips | Missing
    inception: Inception | Missing
    pictures: Path | None = None  # where methods' pictures are written, a folder for each
    conventions: Conventions = PAPER

    def judge(self, pair: Pair, method: Method) -> Judged:
        """Everything about what a method makes of a pair; what is kept already is read."""
        hr_digest = file_digest(pair.hr_path)
        source = method.source(pair)
        mask_digest = "" if pair.mask_path is None else file_digest(pair.mask_path)
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
            truth = ocr.countable(found, minimum=self.minimum)
            name = f"ocr {_digest(reader.label, str(self.minimum))}"
            if name not in kept:
                kept[name] = [to_json(one.after) for one in ocr.reread(truth, work.output, reader)]
            after = [from_json(line) for line in kept[name]]
            judged.lines[reader.label] = [ocr.Pair(a, b) for a, b in zip(truth, after, strict=True)]
            name = f"mask {_digest(reader.label)}"
            if name not in kept:
                mask = work.made.mask
                kept[name] = None if mask is None else mask_on_lines(mask, [line.box for line in found])
            if kept[name] is not None:
                judged.on_lines[reader.label] = kept[name]
            if pair.label:
                name = f"label {_digest(reader.label, repr(pair.label))}"
                if name not in kept:
                    kept[name] = [[to_json(a), to_json(b)] for a, b in read_labelled(pair.label, work.output, reader)]
                judged.labelled[reader.label] = [ocr.Pair(from_json(a), from_json(b)) for a, b in kept[name]]
                if any(label.box is not None for label in pair.label):
                    name = f"spot {_digest(reader.label, repr(pair.label), str(SPOTTED))}"
                    if name not in kept:
                        lines = [line for line in reader.read(work.output) if line.score >= SPOTTED]
                        kept[name] = spot(pair.label, lines)
                    judged.spotted[reader.label] = kept[name]
        if json.dumps(kept) != before:
            _write_json(file, kept)
        return judged

    def found(self, pair: Pair, reader: Reader, hr_digest: str, hr: Callable[[], Pixels]) -> list[Line]:
        """All lines of the HR picture, read once for each reader."""
        file = self.folder / "truth" / _digest(VERSION, reader.label)[:16] / f"{hr_digest}.json"
        if not file.is_file():
            _write_json(file, [to_json(line) for line in reader.read(as_image(hr()))])
        return [from_json(line) for line in json.loads(file.read_text(encoding="utf-8"))]

    def input_psnr(self, pair: Pair) -> float:
        """PSNR of what the network is fed: how bad the LR picture is."""
        file = self.folder / "input" / f"{_digest(VERSION, file_digest(pair.lr_path), file_digest(pair.hr_path))}.json"
        if not file.is_file():
            _write_json(file, psnr(pair.upscaled, pair.hr))
        return json.loads(file.read_text("utf-8"))

    def picture(self, pair: Pair, method: Method) -> Pixels:
        """A method's picture once more, to be shown."""
        return self._make(pair, method, method.source(pair))[0].picture

    def hr_features(self, pair: Pair) -> Array:
        return self._features(f"hr {file_digest(pair.hr_path)}", lambda: pair.hr)

    def _features(self, source: str, picture: Callable[[], Pixels]) -> Array:
        if isinstance(self.inception, Missing):
            raise ConfigError(str(self.inception))
        file = self.folder / "features" / f"{_digest(VERSION, self.inception.key, source)}.npy"
        if not file.is_file():
            features = self.inception(picture())
            write_atomic(file, lambda temporary: Path(temporary).write_bytes(_npy(features)))
        return np.load(file)

    def _make(self, pair: Pair, method: Method, source: str) -> tuple[Made, float]:
        """A method's picture and the seconds it took; from disk where a run before has left it there."""
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
    """A pair's pictures, read or made when first asked for."""

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
        return as_image(self.made.picture)


def _pixel_values(picture: Pixels, hr: Pixels) -> dict[str, float]:
    y, y_hr = luma(picture), luma(hr)
    return {"psnr": psnr(picture, hr), "psnr_y": psnr(y, y_hr), **_ssim_values(picture, hr, "valid")}


def _ssim_values(picture: Pixels, hr: Pixels, padding: str) -> dict[str, float]:
    return {
        "ssim": ssim(picture, hr, padding=padding),
        "ssim_y": ssim(luma(picture), luma(hr), padding=padding),
    }


def _mask_counts(made: Made, pair: Pair) -> tuple[int, int, int] | None:
    target = pair.mask
    return None if made.mask is None or target is None else mask_counts(made.mask, target)


def to_json(line: Line) -> dict[str, Any]:
    return {"text": line.text, "score": line.score, "box": np.asarray(line.box, np.float64).tolist()}


def from_json(line: dict[str, Any]) -> Line:
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
