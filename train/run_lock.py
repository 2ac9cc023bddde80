"""One run at a time writes to a folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tadisr.errors import ConfigError

LOCK = ".lock"
BEYOND = 2**30  # a byte that the lock's file does not have
_held: set[Path] = set()  # by this process, which the system lets lock a file again


@contextmanager
def lock_folder(folder: Path, what: str) -> Iterator[None]:
    """Hold FOLDER/.lock while a `what` (run, build) writes there. Raises ConfigError that names who holds it.

    It is a record lock of the operating system: it goes with the process, also a killed one, whose file is then stale, and
    is not inherited by forked workers that outlive it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / LOCK).resolve()
    if path in _held:
        raise ConfigError(_taken(what, folder, f"process {os.getpid()} on {socket.gethostname()}"))
    with path.open("a+", encoding="utf-8") as file:
        try:
            lock_file(file)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ConfigError(_taken(what, folder, _owner(path))) from error
        _held.add(path)
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            _held.discard(path)


def lock_file(file: TextIO) -> None:
    """Take a file's lock, or raise OSError with EACCES or EAGAIN at once."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(BEYOND)  # locked bytes cannot be read by others, and the owner's name is to be
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _taken(what: str, folder: Path, owner: str) -> str:
    return f"Another {what} is writing to {folder} ({owner}): wait for it, stop it, or choose another out."


def _owner(path: Path) -> str:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"process {record['process']} on {record['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has not said which"
