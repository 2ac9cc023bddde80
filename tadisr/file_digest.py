"""Hash files in blocks, so that a file of any size needs no memory."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_file(path: str | Path, *, git_blob: bool = False) -> str:
    """Return the sha256 of a file in hex; git_blob: the sha1 by which git, and the hub for small files, name it."""
    path = Path(path)
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode()) if git_blob else hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
