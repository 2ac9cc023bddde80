"""The tensors of a model on disk, known from its files' headers; nothing is read until it is asked for.

One file, or a folder of diffusers' with any variant, whole or in shards. Every file is checked against its own header
first, so that a download that was cut off is told before gigabytes are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..safetensors_file import Entry, Table, check_finite, read_table
from ..validation import parse_json, shorten_value

__all__ = [
    "Entry",
    "Table",
    "check_finite",
    "find_part_folder",
    "find_table",
    "read_index",
    "read_shards",
    "read_table",
]

STEM = "diffusion_pytorch_model"
SHARD = re.compile(r"^(.*)-(\d{5})-of-(\d{5})\.safetensors$")


# ---- folders --------------------------------------------------------------------------------------------------------


def find_table(path: str | Path, part: str, *, dtype: torch.dtype = torch.float16) -> Table:
    """Find the weights of one part (`unet`, `vae`, ...) of a model, wherever a user has them.

    path: a file, the folder of a whole diffusers model, the folder of the part itself, or a hub cache folder
    (models--OWNER--NAME). dtype: of several variants the one that serves it best is taken. Raises CheckpointError.
    """
    path = Path(path)
    if path.is_file():
        return read_index(path) if path.suffix == ".json" else read_table(path)
    if not path.is_dir():
        raise CheckpointError(f"There is no file or folder {path}.")
    folder = find_part_folder(path, part)
    found = list_variants(folder)
    if not found:
        raise CheckpointError(_nothing(path, folder, part))
    full = dtype == torch.float32
    order = ["", "fp16", "bf16"] if full else ["fp16", "", "bf16"]
    best = min(found, key=lambda name: (order.index(name) if name in order else len(order), name))
    return found[best]()


def find_part_folder(path: Path, part: str) -> Path:
    """Find the folder of a part in a model's folder, a hub cache, or the part's folder itself."""
    snapshots = path / "snapshots"
    if snapshots.is_dir():
        kept = [folder for folder in snapshots.iterdir() if (folder / part).is_dir()]
        path = max(kept, key=lambda folder: folder.stat().st_mtime, default=path)
    return path / part if (path / part).is_dir() else path


def list_variants(folder: Path) -> dict[str, Callable[[], Table]]:
    """List the variants of a part's weights in a folder: fp16, or "" for the one without a name."""
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
    """Read all shards that an index lists. Raises CheckpointError for a missing, truncated or foreign shard."""
    try:
        index = parse_json(path.read_text("utf-8"))
        names = list_shards(index)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is no index of shards ({error}): download it again.") from error
    places: dict[str, str] = index["weight_map"]
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


def list_shards(index: Any) -> list[str]:
    """List the files in a parsed index, sorted. Raises ValueError for what is no index, or leads out of its folder."""
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise ValueError("it has no weight_map")
    for value in places.values():
        if not isinstance(value, str) or not 0 < len(value) < 256 or set(value) & set("/\\\0") or value in (".", ".."):
            raise ValueError(f"its weight_map names {shorten_value(value)}, expected a file beside it")
    return sorted(set(places.values()))


def read_shards(paths: list[Path]) -> Table:
    """Read shards whose index is missing, checked for completeness by their numbers."""
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
