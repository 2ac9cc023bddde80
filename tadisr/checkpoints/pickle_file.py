"""Read pickles of tensors: what they hold is looked at before anything of it is made."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

LARGEST = 64 << 20  # bytes of the pickle itself, in which the tensors' values are not
ALLOWED = {  # what a table of tensors needs; weights_only allows more, such as a bytearray of any size
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "__builtin__ set",
    "builtins set", "torch.storage UntypedStorage", "torch Size", "torch device",
    *(f"torch {kind}Storage" for kind in "Float Half BFloat16 Double Long Int Short Char Byte Bool".split()),
}  # fmt: skip
NAMED = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}  # other ways to name a class, which torch.save does not use


def read_pickle(path: Path, wrong: str) -> Any:
    """Load a file of torch.save, its tensors mapped, nothing in it run. wrong: what to do about a file that is no such.

    Raises CheckpointError for a file that is missing, damaged, older than torch 1.6, or names more than tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    with path.open("rb") as file:
        if file.read(64).startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path} is a git-lfs pointer, not the weights: fetch it with git lfs pull.")
    try:
        scan_pickle(path, wrong)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no pickle of tensors alone, and nothing else is opened here. {wrong}"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # zipfile, pickletools and torch raise a dozen kinds for damaged files
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} cannot be read ({what:.120}). {wrong}") from error


def scan_pickle(path: Path, wrong: str) -> None:
    """Raise CheckpointError for a file whose pickle names anything but tensors, their storages and plain tables."""
    with zipfile.ZipFile(path) as archive:
        pickles = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > LARGEST:
            raise CheckpointError(
                f"{path} has {len(pickles)} tables, expected one of at most {LARGEST >> 20} MiB. {wrong}"
            )
        data = archive.read(pickles[0])
    for opcode, argument, _ in pickletools.genops(data):
        named = str(argument) if opcode.name == "GLOBAL" else opcode.name if opcode.name in NAMED else None
        if named is not None and named not in ALLOWED:
            raise CheckpointError(
                f"{path} is no pickle of tensors alone: it names {named:.80}, and nothing else is opened here. {wrong}"
            )
