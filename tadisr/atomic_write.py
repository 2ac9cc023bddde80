"""Write files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def create_beside(path: Path) -> tuple[int, str]:
    """Create a file for `path` to be written under, in its folder, which is made: handle and name.

    The name is short, so that a name of any length that the file system takes can be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")


def move_into_place(temporary: str, path: Path) -> None:
    """Rename a complete file to `path`, with the permissions of a file made the usual way."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o666 & ~mask)
    os.replace(temporary, path)


def write_atomic(path: Path, write: Callable[[str], object]) -> None:
    """Call `write(temporary)` on a new file in the same folder, then rename it to `path`; nothing is left on failure."""
    handle, temporary = create_beside(path)
    os.close(handle)
    try:
        write(temporary)
        move_into_place(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
