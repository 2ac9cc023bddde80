"""Files that a run resumes from: whole, or told to be damaged."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tadisr.atomic_write import write_atomic
from tadisr.errors import CheckpointError
from tadisr.validation import parse_json

log = logging.getLogger(__name__)


def read_intact(path: Path) -> dict[str, Any]:
    """Read a file of torch.save and verify its checksums. Raises CheckpointError if it is damaged or holds no table."""
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not compare them
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged in {damaged}.")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged ({what:.120}).") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected a table.")
    return state


def read_rows(path: Path, is_row: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Read a file of JSON lines, and remove from it what is no whole row: cut short by a kill, or damaged, which is logged."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept, rows = [], []
    for line in lines:
        try:
            row = parse_json(line) if line.endswith(b"\n") else None
        except ValueError:
            row = None
        if isinstance(row, dict) and is_row(row):
            kept.append(line)
            rows.append(row)
    if len(kept) < len(lines):
        log.warning("%s: %d of %d lines are damaged, and removed.", path, len(lines) - len(kept), len(lines))
        write_atomic(path, lambda temporary: Path(temporary).write_bytes(b"".join(kept)))
    return rows
