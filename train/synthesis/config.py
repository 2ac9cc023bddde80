"""Configuration of a build: sources, parameters of every step, number of samples. One YAML file, checked strictly."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tadisr.errors import ConfigError
from tadisr.validation import build_dataclass

from ..config import load_table, merge_tables, parse_override


@dataclass(frozen=True, kw_only=True)
class ForegroundConfig:
    """Images of text. `source`: kind, path and the kind's options, as `data/sources` opens them."""

    source: dict[str, Any]
    limit: int | None = None  # take so many of its images, from the first on
    # A crop is one line as it is (CTR), an image with lines in it, or an image to cut its lines out of.
    crops: Literal["line", "picture", "cut"] = "line"
    margin: float = 0.25  # what is left around a line that is cut out, in line heights
    # false: keep every crop whose mask is not empty, whatever OCR reads: for masks drawn by hand (TextSeg, BTS). The paper
    # filters the inferred masks of CTR alone.
    check: bool = True


@dataclass(frozen=True, kw_only=True)
class BackgroundConfig:
    """Images without text."""

    source: dict[str, Any]
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Masks for images that come without."""

    model: str = "compact"  # as `open_segmenter` takes it
    sam: str | None = None  # SAM's own file, which Hi-SAM's published ones need
    precision: str = "fp32"
    threshold: float | None = None  # a mask of 0 and 1 by this threshold; none: the probability itself
    batch: int = 4


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """PP-OCR: `auto` is paddleocr where it and its models are, else rapidocr."""

    engine: Literal["auto", "paddleocr", "rapidocr"] = "auto"
    models: str | None = None


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Criteria for keeping crops. Ratios are Levenshtein ratios, see `tadisr.ocr.text_ratio`; the paper gives no numbers."""

    confidence: float = 0.5  # a line of which PP-OCR is less sure does not count as read
    similarity: float = 0.8  # of what the crop and what its mask read
    label: float = 0.8  # of what the crop reads and what its set says it reads
    long_edge: float = 16.0  # pixels of the crop's long edge to each character


@dataclass(frozen=True, kw_only=True)
class EnhanceConfig:
    """A Real-SR model for small crops: any file that spandrel loads (the paper has HAT), or `off`."""

    model: str
    below: int | None = 128  # crops whose short side has fewer pixels; none: all of them


@dataclass(frozen=True, kw_only=True)
class GroundConfig:
    """Criteria for keeping backgrounds."""

    confidence: float = 0.5  # dropped where PP-OCR reads anything with this confidence
    enlarge: float = 1.5  # brought up at most so much to fill the canvas, else dropped as too small


@dataclass(frozen=True, kw_only=True)
class ComposeConfig:
    """Crops onto a background (Sec. 3.5)."""

    canvas: int = 1024
    count: tuple[int, int] = (1, 5)  # text crops on a canvas
    scale: tuple[float, float] = (0.15, 1.0)  # of the canvas, along the crop's long edge
    tries: int = 100  # places for a crop before it shrinks
    shrink: float = 0.9  # by which it does, down to the least scale; then it is left out
    magnify: float | None = None  # a crop is enlarged at most so much; none: as far as its scale says
    edges: Literal["paste", "feather", "poisson"] = "paste"
    feather: int = 4  # pixels over which `feather` fades


@dataclass(frozen=True, kw_only=True)
class DegradeConfig:
    """HR to LR. `opencv` is quickest on a CPU; `torch` works on batches, on a GPU too; their bytes differ.

    preset: see train/data/degradation/recipes.py. `ftsr-authors` is what the paper's FTSR was made with.
    """

    preset: Literal["ftsr-authors", "ftsr", "real-esrgan"] = "ftsr-authors"
    tools: Literal["opencv", "torch"] = "opencv"
    batch: int = 4


@dataclass(frozen=True, kw_only=True)
class WriteConfig:
    train: float = 0.9  # the first of the samples train, the rest test
    shards: bool = False  # WebDataset tar files beside the folders
    per_shard: int = 1000


@dataclass(frozen=True, kw_only=True)
class SynthesisConfig:
    """A whole build."""

    out: str
    samples: int
    foregrounds: tuple[ForegroundConfig, ...]
    backgrounds: tuple[BackgroundConfig, ...]
    enhance: EnhanceConfig
    seed: int = 0
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    ground: GroundConfig = field(default_factory=GroundConfig)
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    write: WriteConfig = field(default_factory=WriteConfig)
    workers: int | None = None  # processes; none: one for each core, 0: none beside this one
    device: Literal["auto", "cpu", "cuda"] = "auto"  # of the segmenter, the Real-SR model and torch's degradation
    on_device: int = 1  # processes that share it, or as many as there are GPUs to use

    def __post_init__(self) -> None:
        low, high = self.compose.scale
        checks = [
            (self.samples >= 1, f"samples is {self.samples}, expected at least 1"),
            (self.foregrounds and self.backgrounds, "foregrounds and backgrounds each need at least one source"),
            (self.compose.canvas % 16 == 0, f"compose.canvas is {self.compose.canvas}, expected a multiple of 16"),
            (0 < low <= high <= 1, f"compose.scale is {low}, {high}, expected 0 < low <= high <= 1"),
            (1 <= self.compose.count[0] <= self.compose.count[1], f"compose.count is {self.compose.count}"),
            (0 < self.compose.shrink < 1, f"compose.shrink is {self.compose.shrink}, expected between 0 and 1"),
            (0 <= self.write.train <= 1, f"write.train is {self.write.train}, expected a share between 0 and 1"),
            (min(self.segment.batch, self.degrade.batch, self.write.per_shard) >= 1, "batches hold at least 1"),
        ]
        for fine, problem in checks:
            if not fine:
                raise ConfigError(f"{problem}.")


def read_config(path: str | Path, overrides: list[str] | None = None) -> SynthesisConfig:
    """Read a YAML file over the one its `inherit` names, then apply `key.sub=value` overrides. Raises ConfigError."""
    data = load_table(Path(path))
    for override in overrides or []:
        data = merge_tables(data, parse_override(override))
    return from_dict(data, Path(path).name)


def from_dict(data: dict[str, Any], where: str = "config") -> SynthesisConfig:
    data = dict(data)
    for name, kind in (("foregrounds", ForegroundConfig), ("backgrounds", BackgroundConfig)):
        tables = data.get(name, [])
        if not isinstance(tables, (list, tuple)):
            raise ConfigError(f"{where}.{name} is {type(tables).__name__}, expected a list of sources.")
        data[name] = tuple(build_dataclass(kind, table, f"{where}.{name}.{i}") for i, table in enumerate(tables))
    return build_dataclass(SynthesisConfig, data, where)


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to plain values as in YAML and JSON: tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def hash_settings(*parts: Any) -> str:
    """Hash settings to 16 hex digits, equal for equal values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
