"""What a step has finished, on disk: appended to, flushed to the disk itself, each line with a checksum.

A line is one chunk of work: whole, or not there. Whatever a killed run or a failing disk left half written is
dropped when the file is opened, and done again.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from tadisr.errors import ConfigError
from tadisr.files import write_atomic

Record = dict[str, Any]


class Journal:
    """`settings` say what the records depend on: a journal of others is refused.

    Raises ConfigError naming what differs.
    """

    def __init__(self, path: Path, settings: Record) -> None:
        self.path = path
        self.chunks: dict[int, list[Record]] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        good = [line for line in lines if _read(line) is not None]
        entries = [json.loads(line[9:]) for line in good]
        if entries and "settings" in entries[0]:
            _compare(path, entries[0]["settings"], settings)
            self.chunks = {entry["chunk"]: entry["records"] for entry in entries[1:]}
        if not entries or "settings" not in entries[0]:
            good, self.chunks = [_line({"settings": settings})], {}
        if good != lines:
            write_atomic(path, lambda temporary: write_synced(Path(temporary), b"".join(good)))
        self.file = path.open("ab")

    def add(self, chunk: int, records: list[Record]) -> None:
        """Records as they will be read again. On return they are on the disk."""
        self.file.write(_line({"chunk": chunk, "records": records}))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.chunks[chunk] = records

    def close(self) -> None:
        self.file.close()


def read_records(path: Path) -> list[Record]:
    """What a journal holds, in order, whoever is writing to it; nothing where there is none."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    entries = [json.loads(line[9:]) for line in lines if _read(line) is not None]
    chunks = {entry["chunk"]: entry["records"] for entry in entries if "chunk" in entry}
    return [record for key in sorted(chunks) for record in chunks[key]]


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_bytes(path: Path, data: bytes) -> None:
    """A file, whole and on the disk, or none."""
    write_atomic(path, lambda temporary: write_synced(Path(temporary), data))


def write_lines(path: Path, records: list[Record]) -> None:
    """JSON lines, whole or none."""
    write_bytes(path, b"".join(json.dumps(r, ensure_ascii=False, sort_keys=True).encode() + b"\n" for r in records))


def read_lines(path: Path) -> list[Record]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _line(entry: Record) -> bytes:
    body = json.dumps(entry, ensure_ascii=False, sort_keys=True).encode()
    return b"%08x " % zlib.crc32(body) + body + b"\n"


def _read(line: bytes) -> bytes | None:
    """A line's body where its checksum holds."""
    body = line[9:-1]
    return body if line.endswith(b"\n") and line[:9] == b"%08x " % zlib.crc32(body) else None


def _compare(path: Path, found: Record, expected: Record) -> None:
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if names:
        name = names[0]
        raise ConfigError(
            f"{path.parent} was made with other settings: {name} was {json.dumps(found.get(name))}, now it is "
            f"{json.dumps(expected.get(name))}. Choose another --out, or go on from there with --redo {path.parent.name}."
        )
