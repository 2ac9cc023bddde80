"""The Chinese text recognition benchmark's LMDB: `image-%09d`, `label-%09d` from 1 on, `num-samples`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .base import Item, SourceError, check_index, decode_image


class CTR:
    """One published LMDB, a folder with data.mdb or the file itself. Opened in each process when it is first read there."""

    kind = "ctr"

    def __init__(self, path: Path, *, name: str, licence: str) -> None:
        self.path, self.name, self.licence = path, name, licence
        if not (path / "data.mdb").is_file() and not path.is_file():
            raise SourceError(f"{path} is no LMDB: expected a folder with data.mdb in it.")
        count = self._get("num-samples")
        if count is None or not count.isdigit():
            raise SourceError(f"{path} has no num-samples: it is no LMDB of text crops (image-%09d, label-%09d).")
        self._count = int(count)

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        return f"{check_index(index, len(self)) + 1:09d}"

    def __getitem__(self, index: int) -> Item:
        key = self.key(index)
        data, label = self._get(f"image-{key}"), self._get(f"label-{key}")
        where = f"{self.path}: image-{key}"
        if data is None:
            raise SourceError(f"{where} is not there, though num-samples is {self._count}.")
        try:
            text = None if label is None else label.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"{self.path}: label-{key} is no UTF-8.") from error
        return Item(key, decode_image(data, where), None, text)

    def _get(self, key: str) -> bytes | None:
        with open_environment(self.path).begin() as transaction:
            return transaction.get(key.encode())


_open: dict[Path, tuple[int, Any]] = {}  # the process that opened it, and the environment


def open_environment(path: Path) -> Any:
    """Open the LMDB at `path` in this process, once for all sources that read it. Raises SourceError.

    An environment must not be used across a fork: a child closes what it inherited and opens its own.
    """
    try:
        import lmdb
    except ImportError as error:
        raise SourceError("Reading CTR needs the package lmdb: pip install 'tadisr[train]'.") from error
    path = path.resolve()
    owner, opened = _open.get(path, (0, None))
    if owner == os.getpid():
        return opened
    if opened is not None:
        opened.close()
    try:
        opened = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise SourceError(f"{path} is no LMDB that can be read: {error}.") from error
    _open[path] = (os.getpid(), opened)
    return opened
