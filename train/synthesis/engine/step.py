"""Run a step: chunks of work, each a pure function of the settings, recorded in a journal."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from tadisr.errors import CheckpointError, ConfigError
from tadisr.file_digest import hash_file

from ...data.sources import Source, SourceError, open_source
from ..config import SynthesisConfig, hash_settings
from . import workers as pool_of
from .journal import Journal, Record, Records, write_bytes
from .workers import Workers

Pixels = NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Step:
    """Steps are sent to the workers: they hold settings, and open what they need where they run."""

    name: ClassVar[str]
    on_device: ClassVar[bool] = False  # whether it runs on a GPU where there is one

    config: SynthesisConfig

    @property
    def out(self) -> Path:
        return Path(self.config.out)

    @property
    def folder(self) -> Path:
        """Its journal, and whatever is only for the next steps."""
        return self.out / "work" / self.name

    def describe_settings(self) -> Record:
        """Return all that the records depend on, including the earlier steps' settings (by their digest)."""
        raise NotImplementedError

    def list_chunks(self) -> dict[int, Any]:
        """Return the step's work by chunk number."""
        raise NotImplementedError

    def __call__(self, chunk: Any) -> list[Record]:
        """The records of a chunk, its files written. Runs in a worker."""
        raise NotImplementedError

    def written_files(self, record: Record) -> list[Path]:
        """List the files that a record says were written: if one is gone, its chunk is computed again."""
        return []

    def covers_chunk(self, records: list[Record], chunk: Any) -> bool:
        """Tell whether records of an earlier run are all of a chunk, which may have grown."""
        return True

    def output_folders(self) -> list[Path]:
        """List the folders that hold only what the step wrote."""
        return [self.folder]

    @property
    def device(self) -> str:
        """In a worker: its GPU, where it is to use one."""
        wanted = self.config.device
        if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
            return "cpu"
        if not torch.cuda.is_available():
            raise ConfigError("device is cuda, but torch sees no GPU here; say device=cpu or device=auto.")
        return f"cuda:{pool_of.RANK % torch.cuda.device_count()}"


def run_step(step: Step, workers: Workers, *, quiet: bool = False) -> Records:
    """Run what is left of a step; return all its records, in order."""
    chunks = step.list_chunks()
    journal = Journal(step.folder / "journal.jsonl", step.describe_settings())
    try:
        left = {k: chunk for k, chunk in chunks.items() if not is_finished(step, journal, k, chunk)}
        for part in (
            p for folder in step.output_folders() if folder.is_dir() and left for p in folder.rglob(".*.part")
        ):
            part.unlink(missing_ok=True)  # a killed run's
        share = step.config.on_device if step.on_device and step.config.device != "cpu" else None
        share = share if torch.cuda.is_available() or step.config.device == "cuda" else None
        bar = tqdm(
            total=len(chunks), initial=len(chunks) - len(left), desc=f"{step.name:11}", unit="chunk", disable=quiet,
            mininterval=1 if sys.stderr.isatty() else 30, dynamic_ncols=True,
        )  # fmt: skip
        with bar:
            for key, records in workers.map(step, left, on_device=share):
                journal.add(key, records)
                bar.update()
        return journal.records(chunks)
    finally:
        journal.close()


def is_finished(step: Step, journal: Journal, key: int, chunk: Any) -> bool:
    if key not in journal.places:
        return False
    records = list(journal.records([key]))
    return step.covers_chunk(records, chunk) and all(
        path.is_file() for record in records for path in step.written_files(record)
    )


def forget_steps(steps: Iterable[Step], name: str) -> None:
    """Delete the output of a step and all that follow it."""
    following = False
    for step in steps:
        following = following or step.name == name
        if following:
            for folder in step.output_folders():
                shutil.rmtree(folder, ignore_errors=True)


# ---- what steps share -----------------------------------------------------------------------------------------------


def split_groups(items: list[T], size: int) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def open_source_of(table: Record) -> Source:
    return _opened(json.dumps(table, sort_keys=True))


@lru_cache(maxsize=8)
def _opened(table: str) -> Source:
    options = json.loads(table)
    if "kind" not in options:
        raise SourceError(f"A source has no kind: {table}.")
    return open_source(options.pop("kind"), options.pop("path", None), **options)


def count_items(source: Source, limit: int | None) -> int:
    return len(source) if limit is None else min(limit, len(source))


def describe_source(table: Record, limit: int | None) -> Record:
    """Describe a source in a step's settings: its contents, not its path."""
    source = open_source_of(table)
    return {**{k: v for k, v in table.items() if k != "path"}, "name": source.name, "items": count_items(source, limit)}


@lru_cache(maxsize=8)
def hash_model(path: str) -> str:
    """Hash a model file to the 16 hex digits that stand for it in a step's settings. Raises CheckpointError."""
    if not Path(path).is_file():
        raise CheckpointError(f"There is no model file {path}.")
    return hash_file(path)[:16]


def hash_steps(*steps: Step) -> str:
    return hash_settings(*(step.describe_settings() for step in steps))


def read_pixels(path: Path) -> Pixels:
    """Read an image that this build wrote as (h, w, 3) RGB."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise ConfigError(f"{path}, which this build wrote, is gone or broken: delete it and start again.")
    return np.ascontiguousarray(pixels[..., ::-1])  # pyright: ignore[reportReturnType]


def read_gray(path: Path) -> Pixels:
    pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if pixels is None:
        raise ConfigError(f"{path}, which this build wrote, is gone or broken: delete it and start again.")
    return pixels  # pyright: ignore[reportReturnType]


def encode_png(pixels: Pixels) -> bytes:
    """Encode RGB (h, w, 3) or grey (h, w) as PNG."""
    _, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    return data.tobytes()


def write_png(path: Path, pixels: Pixels) -> None:
    write_bytes(path, encode_png(pixels))
