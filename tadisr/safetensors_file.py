"""Read and write one safetensors file: its header is checked first, tensors are read when they are asked for.

A file's header is data from outside: names, dtypes, shapes and offsets are validated before anything is done with them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .atomic_write import write_atomic
from .errors import CheckpointError
from .validation import parse_json, shorten_value

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
LONGEST_HEADER = 16_000_000  # bytes; the longest known of a model has 300,000, and parsing takes 30 times the memory
MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Entry:
    """The location of one tensor. `held` instead of a file: it is in memory already."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path | None = None
    begin: int = 0  # bytes from the start of the file
    bytes: int = 0
    held: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Table:
    """Tensors by name. `where` is how sentences speak of it."""

    where: str
    entries: dict[str, Entry]
    metadata: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: dict[str, Tensor], where: str) -> Table:
        """Make a table of tensors in memory."""
        return cls(where, {name: Entry(t.dtype, tuple(t.shape), held=t) for name, t in tensors.items()})

    @property
    def files(self) -> list[Path]:
        return sorted({entry.file for entry in self.entries.values() if entry.file is not None})

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries.values())

    def read(
        self, names: dict[str, str], stays: Callable[[str, torch.dtype], bool] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (new name, tensor) for every pair {new name: name here}, in the files' order.

        stays(new name, type): whether the tensor will be used as it is. Then it remains in its file, mapped, and is
        paged in when it is used; else it is there until the next one is asked for, to be converted. None: all are read
        into memory of their own. Raises CheckpointError for a tensor with NaN or infinite values.
        """
        order = sorted(names, key=lambda new: (str(self.entries[names[new]].file), self.entries[names[new]].begin))
        mapped: dict[Path, Tensor] = {}
        longest = max((self.entries[name].bytes for name in names.values()), default=0)
        scratch: Tensor | None = None
        for new in order:
            entry = self.entries[names[new]]
            if entry.held is not None:
                held = entry.held.detach().cpu()
                check_finite(held, names[new], self.where)
                yield new, held
                continue
            assert entry.file is not None
            as_it_is = stays is not None and (stays(new, entry.dtype) or not entry.dtype.is_floating_point)
            if as_it_is and entry.begin % entry.dtype.itemsize == 0 and entry.bytes:
                if entry.file not in mapped:
                    size = entry.file.stat().st_size
                    mapped[entry.file] = torch.from_file(str(entry.file), shared=False, size=size, dtype=torch.uint8)
                raw = mapped[entry.file][entry.begin : entry.begin + entry.bytes]
            else:
                if stays is None or as_it_is:
                    raw = torch.empty(entry.bytes, dtype=torch.uint8)
                else:
                    if scratch is None:  # once: memory that grows leaves gaps between what stays
                        scratch = torch.empty(longest, dtype=torch.uint8)
                    raw = scratch[: entry.bytes]
                _read(entry.file, entry.begin, raw)
            tensor = raw.view(entry.dtype).reshape(entry.shape)
            check_finite(tensor, names[new], str(entry.file))
            yield new, tensor


def _read(file: Path, begin: int, into: Tensor) -> None:
    with file.open("rb") as opened:
        opened.seek(begin)
        if opened.readinto(memoryview(into.numpy())) != len(into):  # pyright: ignore[reportArgumentType]
            raise CheckpointError(f"{file} became shorter while it was read: copy it again.")


def check_finite(tensor: Tensor, name: str, where: str) -> None:
    """Raise CheckpointError for NaN or infinite values: a damaged file would give a black image."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    if tensor.dtype.itemsize == 1:  # fp8
        damaged = bool(tensor.float().isfinite().logical_not().any())
    else:  # NaN goes through to both; unlike isfinite, it makes no tensor of its own
        damaged = not all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor))
    if damaged:
        raise CheckpointError(
            f"{where}: {name} has NaN or infinite values, the file is damaged: download or copy it again."
        )


# ---- one file -------------------------------------------------------------------------------------------------------


def read_table(path: str | Path, *, whole: bool = True) -> Table:
    """Read the header of a safetensors file. Raises CheckpointError if it is missing, truncated or something else.

    whole: False lets a file pass whose header is all there and whose tensors are not, to tell what it was to be.
    """
    path = Path(path)
    try:
        if not path.is_file():  # also a pipe, whose reader would wait for ever
            raise CheckpointError(f"There is no file {path}.")
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            foreign = _foreign(head + file.read(56))
            if foreign:
                raise CheckpointError(f"{path} is {foreign}")
            size = path.stat().st_size
            if len(head) < 8 or not 2 <= length <= LONGEST_HEADER or 8 + length > size:
                raise CheckpointError(_cut(path, "its header is not all there"))
            file.seek(8)
            header = parse_json(file.read(length))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CheckpointError(_cut(path, f"its header is no JSON ({str(error)[:80]})")) from error
    if not isinstance(header, dict):
        raise CheckpointError(_cut(path, f"its header is a {type(header).__name__}, expected a table"))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(_cut(path, "its __metadata__ is no table of texts"))
    entries = {name: _entry(path, 8 + length, name, tensor) for name, tensor in header.items()}
    _check_overlap(path, entries)
    end = max((entry.begin + entry.bytes for entry in entries.values()), default=0)
    if whole and size < end:
        raise CheckpointError(_cut(path, f"it has {size:,} bytes of the {end:,} that its header promises"))
    return Table(str(path), entries, metadata)


def _entry(path: Path, base: int, name: str, tensor: Any) -> Entry:
    """One tensor's place, from the header's row of it. Raises CheckpointError for a row that is not consistent."""
    if not isinstance(tensor, dict):
        raise CheckpointError(_cut(path, f"its header has a {type(tensor).__name__} for {name:.80}"))
    kind, shape, offsets = tensor.get("dtype"), tensor.get("shape"), tensor.get("data_offsets")
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise CheckpointError(
            f"{path} holds {name:.80} in the dtype {shorten_value(kind)}, which TADiSR does not know."
        )
    if not _sizes(shape) or len(shape) > MOST_DIMENSIONS:
        raise CheckpointError(
            _cut(path, f"the shape of {name:.80} is {shorten_value(shape)}, expected a list of sizes")
        )
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(
            _cut(path, f"the offsets of {name:.80} are {shorten_value(offsets)}, expected [begin, end]")
        )
    begin, end = offsets
    expected = math.prod(shape) * dtype.itemsize
    if end - begin != expected:
        what = f"{name:.80} has {end - begin:,} bytes, its shape {tuple(shape)} of {kind} takes {expected:,}"
        raise CheckpointError(_cut(path, what))
    return Entry(dtype, tuple(shape), path, base + begin, end - begin)


def _sizes(values: Any) -> TypeGuard[list[int]]:
    """Tell whether a value is a list of whole numbers from 0 that fit into 63 bits."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_overlap(path: Path, entries: dict[str, Entry]) -> None:
    """Raise CheckpointError where two tensors share bytes."""
    held = sorted((entry.begin, entry.bytes, name) for name, entry in entries.items() if entry.bytes)
    for (begin, size, name), (after, _, other) in pairwise(held):
        if begin + size > after:
            raise CheckpointError(_cut(path, f"{name:.80} and {other:.80} overlap"))


def _cut(path: Path, what: str) -> str:
    return f"{path} is not a whole safetensors file: {what}. Download or copy it again."


def _foreign(head: bytes) -> str | None:
    """Describe a non-safetensors file by its magic bytes, or return None."""
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights: fetch it with git lfs pull, or download the file itself."
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not the weights: download the file itself, not the page about it."
    pickled = head.startswith(b"\x80\x02") and any(head[2:8])  # not the length of a header of 640 bytes
    if head.startswith(b"PK\x03\x04") or pickled:
        return "a pickle (.bin, .ckpt, .pt): TADiSR reads safetensors only, take the .safetensors of the same model."
    if head.startswith(b"GGUF"):
        return "a GGUF file: TADiSR reads safetensors; for little memory choose fp8 as its dtype."
    return None


# ---- writing ----------------------------------------------------------------------------------------------------------


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata. safetensors keeps metadata in a hash map, whose order differs between processes: here it
    is sorted, so that a file's digest can be reproduced. Raises OSError, for a full disk too.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(temporary: str) -> None:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        sort_metadata(Path(temporary))

    write_atomic(path, write)


def sort_metadata(path: Path) -> None:
    """Rewrite a safetensors file's header in place with its metadata sorted; its length stays the same."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > length:
            raise ValueError(f"{path}: the sorted header has {len(text)} bytes, the file has room for {length}.")
        file.seek(8)
        file.write(text.ljust(length))
