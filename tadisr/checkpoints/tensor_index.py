"""The tensors of a model on disk, known from its files' headers; nothing is read until it is asked for.

One file, or a folder of diffusers' with any variant, whole or in shards. Every file is checked against its own header
first, so that a download that was cut off is told before gigabytes are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
STEM = "diffusion_pytorch_model"
LONGEST_HEADER = 100_000_000  # as safetensors itself has it
SHARD = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.safetensors$")


@dataclass(frozen=True)
class Entry:
    """Where one tensor is. `held` instead of a file: it is in memory already."""

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
        """Of tensors that are in memory."""
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
        """(new name, tensor) for every pair {new name: name here}, in the files' order.

        stays(new name, type): whether the tensor will be used as it is. Then it remains in its file, mapped, and is
        paged in when it is used; else it is there until the next one is asked for, to be converted. None: all are read
        into memory of their own.
        """
        order = sorted(names, key=lambda new: (str(self.entries[names[new]].file), self.entries[names[new]].begin))
        mapped: dict[Path, Tensor] = {}
        longest = max((self.entries[name].bytes for name in names.values()), default=0)
        scratch: Tensor | None = None
        for new in order:
            entry = self.entries[names[new]]
            if entry.held is not None:
                yield new, entry.held.detach().cpu()
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
            yield new, raw.view(entry.dtype).reshape(entry.shape)


def _read(file: Path, begin: int, into: Tensor) -> None:
    with file.open("rb") as opened:
        opened.seek(begin)
        if opened.readinto(memoryview(into.numpy())) != len(into):  # pyright: ignore[reportArgumentType]
            raise CheckpointError(f"{file} became shorter while it was read: copy it again.")


# ---- one file -------------------------------------------------------------------------------------------------------


def read_table(path: str | Path, *, whole: bool = True) -> Table:
    """The table of one safetensors file. Raises CheckpointError for what is missing, cut short or something else.

    whole: False lets a file pass whose header is all there and whose tensors are not, to tell what it was to be.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
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
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            entries = {name: _entry(path, 8 + length, tensor) for name, tensor in header.items()}
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(_cut(path, "its header cannot be read")) from error
    end = max((entry.begin + entry.bytes for entry in entries.values()), default=0)
    if whole and size < end:
        raise CheckpointError(_cut(path, f"it has {size:,} bytes of the {end:,} that its header promises"))
    return Table(str(path), entries, metadata)


def _entry(path: Path, base: int, tensor: dict) -> Entry:
    begin, end = tensor["data_offsets"]
    dtype = DTYPES.get(tensor["dtype"])
    if dtype is None:
        raise CheckpointError(f"{path} holds the number type {tensor['dtype']}, which TADiSR does not know.")
    return Entry(dtype, tuple(tensor["shape"]), path, base + begin, end - begin)


def _cut(path: Path, what: str) -> str:
    return f"{path} is not a whole safetensors file: {what}. Download or copy it again."


def _foreign(head: bytes) -> str | None:
    """What a file that is no safetensors gives itself away as."""
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights: fetch it with git lfs pull, or download the file itself."
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page, not the weights: download the file itself, not the page about it."
    pickled = head.startswith(b"\x80\x02") and any(head[2:8])  # not the length of a header of 640 bytes
    if head.startswith(b"PK\x03\x04") or pickled:
        return "a pickle (.bin, .ckpt, .pt): TADiSR reads safetensors only, take the .safetensors of the same model."
    if head.startswith(b"GGUF"):
        return "a GGUF file: TADiSR reads safetensors; for little memory choose fp8 as its number type."
    return None


# ---- folders --------------------------------------------------------------------------------------------------------


def find_table(path: str | Path, part: str, *, dtype: torch.dtype = torch.float16) -> Table:
    """The weights of one part (`unet`, `vae`, ...) of a model, from wherever a user has them.

    path: a file, the folder of a whole diffusers model, the folder of the part itself, or a hub cache folder
    (models--OWNER--NAME). dtype: of several variants the one that serves it best is taken. Raises CheckpointError.
    """
    path = Path(path)
    if path.is_file():
        return read_index(path) if path.suffix == ".json" else read_table(path)
    if not path.is_dir():
        raise CheckpointError(f"There is no file or folder {path}.")
    folder = part_folder(path, part)
    found = variants(folder)
    if not found:
        raise CheckpointError(_nothing(path, folder, part))
    full = dtype == torch.float32
    order = ["", "fp16", "bf16"] if full else ["fp16", "", "bf16"]
    best = min(found, key=lambda name: (order.index(name) if name in order else len(order), name))
    return found[best]()


def part_folder(path: Path, part: str) -> Path:
    """The folder of a part within a model's folder, which may be a hub cache, or the part's folder itself."""
    snapshots = path / "snapshots"
    if snapshots.is_dir():
        kept = [folder for folder in snapshots.iterdir() if (folder / part).is_dir()]
        path = max(kept, key=lambda folder: folder.stat().st_mtime, default=path)
    return path / part if (path / part).is_dir() else path


def variants(folder: Path) -> dict[str, Callable[[], Table]]:
    """The variants of a part's weights in a folder: fp16, or "" for the one without a name."""
    found: dict[str, Callable[[], Table]] = {}
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{STEM}*.safetensors")):
        shard = SHARD.match(path.name)
        if shard:
            groups.setdefault(_variant(shard[1]), []).append(path)
        else:
            found.setdefault(_variant(path.stem), lambda path=path: read_table(path))
    for name, shards in groups.items():
        found[name] = lambda shards=shards: read_shards(shards)
    for path in sorted(folder.glob(f"{STEM}*.safetensors.index*.json")):
        name = path.name.split(".safetensors.index")[1].removesuffix(".json").lstrip(".")
        found[name or _variant(path.name.split(".safetensors")[0])] = lambda path=path: read_index(path)
    return found


def _variant(stem: str) -> str:
    return stem.split(".", 1)[1] if "." in stem else ""


def read_index(path: Path) -> Table:
    """All shards that an index lists. Raises CheckpointError for a shard that is missing, cut short or another one's."""
    try:
        places: dict[str, str] = json.loads(path.read_text("utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} is no index of shards (it has no weight_map): download it again.") from error
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path.parent} lacks {', '.join(missing)}, {len(missing)} of the {len(names)} files that {path.name} lists: "
            "the copy is not complete."
        )
    entries = {name: entry for shard in names for name, entry in read_table(path.parent / shard).entries.items()}
    lost = sorted(places.keys() - entries.keys())
    if lost:
        raise CheckpointError(
            f"{path.parent / places[lost[0]]} does not hold {lost[0]}, which {path.name} says it does: files of two "
            "different downloads are mixed here. Download the folder again."
        )
    return Table(str(path.parent), entries)


def read_shards(paths: list[Path]) -> Table:
    """Shards whose index is missing, all of them by their numbers."""
    numbers = [SHARD.match(path.name) for path in paths]
    count = max(int(number[3]) for number in numbers if number)
    have = {int(number[2]) for number in numbers if number}
    missing = sorted(set(range(1, count + 1)) - have)
    if missing:
        raise CheckpointError(
            f"{paths[0].parent} has {len(have)} of {count} shards, number {missing[0]} is missing: the copy is not complete."
        )
    entries = {name: entry for path in paths for name, entry in read_table(path).entries.items()}
    return Table(str(paths[0].parent), entries)


def _nothing(path: Path, folder: Path, part: str) -> str:
    inside = [p.name for p in sorted(folder.iterdir())]
    pickles = [name for name in inside if name.endswith((".bin", ".ckpt", ".pt", ".pth"))]
    half = [name for name in inside if name.endswith((".part", ".incomplete", ".crdownload", ".tmp", ".aria2"))]
    if half:
        return f"{folder} holds only {half[0]}: the download has not ended. Let it finish or start it again."
    if pickles:
        return (
            f"{folder} holds only the pickle {pickles[0]}: TADiSR reads safetensors, download the .safetensors variant."
        )
    seen = ", ".join(inside[:6]) + (", ..." if len(inside) > 6 else "") or "nothing"
    return (
        f"{path} has no {part}/ with a diffusion_pytorch_model.safetensors (or .fp16.safetensors) in it, but {seen}: "
        f"give the model's folder, its {part} folder, or a single file."
    )
