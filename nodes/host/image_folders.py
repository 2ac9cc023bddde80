"""Folders of images that a prompt names, within ComfyUI's own input and output folders."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from ...tadisr.errors import ConfigError


def folder_within(root: str, name: str, what: str) -> Path:
    """Return the folder of that name under `root`. Raises ConfigError for a name that leads out of it, or for none."""
    parts = [part for part in re.split(r"[/\\]", name.strip()) if part not in ("", ".")]
    absolute = re.match(r"\s*([/\\~]|[A-Za-z]:)", name) is not None
    if not parts or absolute or ".." in parts:
        raise ConfigError(
            f"{what} is {name!r:.200}, expected a folder within {root}, such as scans or scans/may. For one elsewhere put a "
            "link to it there, or use the command: python -m tadisr upscale FOLDER -o OUT."
        )
    return Path(root, *parts)


def input_folder(name: str) -> Path:
    """Return a folder under ComfyUI's input folder. Raises ConfigError."""
    root = folder_paths.get_input_directory()
    folder = folder_within(root, name, "input_folder")
    if not folder.is_dir():
        there = sorted(path.name for path in Path(root).iterdir() if path.is_dir())
        raise ConfigError(
            f"There is no folder {name.strip()!r:.200} in {root}; there are: {', '.join(there) or 'none'}."
        )
    return folder


def output_folder(name: str) -> Path:
    """Return a folder under ComfyUI's output folder, which is made when the first result is written. Raises ConfigError."""
    return folder_within(folder_paths.get_output_directory(), name, "output_folder")
