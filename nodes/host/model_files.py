"""The models and adapters in models/tadisr, by the names that a node's list shows."""

from __future__ import annotations

import functools
from pathlib import Path

import folder_paths

from ...tadisr import COMPACT, CheckpointError
from ...tadisr.checkpoints.adapter import read_header
from . import folders, prompt_files

BUILT_IN = "compact (built in)"
NO_ADAPTER = "no adapter in models/tadisr"


def model_names() -> list[str]:
    """List models without the prompt files of the same folder. A broken file is listed, and refused on loading."""
    return [
        BUILT_IN,
        *(name for name in folder_paths.get_filename_list(folders.FOLDER) if not prompt_files.holds_prompt(name)),
    ]


def model_path(name: str) -> Path:
    """Return the file behind a name of the list. Raises CheckpointError for one that is not there (any more)."""
    if name == BUILT_IN:
        return COMPACT
    path = folder_paths.get_full_path(folders.FOLDER, name)
    if path is None:
        places = ", ".join(folder_paths.get_folder_paths(folders.FOLDER))
        raise CheckpointError(f"There is no model {name!r} in {places}. Put it there, or choose {BUILT_IN!r}.")
    return Path(path)


def adapter_names() -> list[str]:
    found = []
    for name in folder_paths.get_filename_list(folders.FOLDER):
        path = folder_paths.get_full_path(folders.FOLDER, name)
        if path is not None and is_adapter(path, folders.changed(path)):
            found.append(name)
    return found or [NO_ADAPTER]


@functools.lru_cache(maxsize=4096)
def is_adapter(path: str, _when: int) -> bool:
    """Tell whether a file is TADiSR's and needs a base; False for a broken one."""
    try:
        return read_header(Path(path)).config.lora is not None
    except CheckpointError:
        return False
