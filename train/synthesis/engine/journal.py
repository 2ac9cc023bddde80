"""A step's finished work on disk: appended, flushed, each line with a checksum.

A line is one chunk of work: whole, or not there. Whatever a killed run or a failing disk left half written is
dropped when the file is opened, and done again.
"""

from __future__ import annotations

import json
import os
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tadisr.atomic_write import write_atomic
from tadisr.errors import ConfigError
from tadisr.validation import parse_json

Record = dict[str, Any]


class Journal:
    """`settings` say what the records depend on: a journal of others is refused.

    Records stay in the file: what is kept of a chunk is where its line begins. Raises ConfigError naming what differs.
    """

    def __init__(self, path: Path, settings: Record) -> None:
        self.path = path
        self.places: dict[int, int] = {}
        if path.exists():
            _mend(path)
        entries = _entries(path)
        _, head = next(entries, (0, {}))
        if "settings" in head:
            _compare(path, head["settings"], settings)
            self.places = {entry["chunk"]: place for place, entry in entries if "chunk" in entry}
        else:
            write_bytes(path, _line({"settings": settings}))
        self.file = path.open("ab")

    def add(self, chunk: int, records: list[Record]) -> None:
        """Append a chunk's records, and wait until they are on the disk."""
        place = self.file.tell()
        self.file.write(_line({"chunk": chunk, "records": records}))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.places[chunk] = place

    def records(self, chunks: Iterable[int]) -> Records:
        """Return the records of these chunks, in this order."""
        return Records(self.path, array("q", (self.places[chunk] for chunk in chunks)))

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True)
class Records:
    """Records of a journal, read each time one goes through them."""

    path: Path
    places: array[int]

    def __iter__(self) -> Iterator[Record]:
        with self.path.open("rb") as file:
            for place in self.places:
                file.seek(place)
                yield from json.loads(file.readline()[9:])["records"]


def read_records(path: Path) -> list[Record]:
    """Read a journal's records in order, also while it is written; none if there is no file."""
    chunks = {entry["chunk"]: entry["records"] for _, entry in _entries(path) if "chunk" in entry}
    return [record for key in sorted(chunks) for record in chunks[key]]


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file and flush it to the disk, whole or not at all."""

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())

    write_atomic(path, write)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file and flush it to the disk, whole or not at all."""
    write_pieces(path, [data])


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, whole or not at all."""
    write_pieces(path, (json.dumps(r, ensure_ascii=False, sort_keys=True).encode() + b"\n" for r in records))


def read_lines(path: Path) -> Iterator[Record]:
    """Read records from JSON lines."""
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _line(entry: Record) -> bytes:
    body = json.dumps(entry, ensure_ascii=False, sort_keys=True).encode()
    return b"%08x " % zlib.crc32(body) + body + b"\n"


def _read(line: bytes) -> Record | None:
    """Parse a line; None where its checksum does not hold, or it is no settings and no chunk of records."""
    body = line[9:-1]
    if not line.endswith(b"\n") or line[:9] != b"%08x " % zlib.crc32(body):
        return None
    try:
        entry = parse_json(body)
    except ValueError:
        return None
    if not isinstance(entry, dict):
        return None
    if isinstance(entry.get("settings"), dict):
        return entry
    records = entry.get("records")
    fine = (
        isinstance(entry.get("chunk"), int) and isinstance(records, list) and all(isinstance(r, dict) for r in records)
    )
    return entry if fine else None


def _entries(path: Path) -> Iterator[tuple[int, Record]]:
    """Yield where each intact line begins, and its content."""
    if not path.exists():
        return
    place = 0
    with path.open("rb") as file:
        for line in file:
            body = _read(line)
            if body is not None:
                yield place, body
            place += len(line)


def _mend(path: Path) -> None:
    """Drop lines that are not whole."""
    with path.open("rb") as file:
        whole = all(_read(line) is not None for line in file)
    if not whole:
        write_pieces(path, _whole(path))


def _whole(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if _read(line) is not None)


def _compare(path: Path, found: Record, expected: Record) -> None:
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if names:
        name = names[0]
        raise ConfigError(
            f"{path.parent} was made with other settings: {name} was {json.dumps(found.get(name))}, now it is "
            f"{json.dumps(expected.get(name))}. Choose another --out, or compute it again with --redo {path.parent.name}."
        )
