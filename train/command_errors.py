"""Report stops and failures of a command in one sentence with an exit code."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tadisr.errors import TADiSRError

DEAD = (
    "A data worker died, most often for want of memory: use fewer (data.workers=N). What was finished is kept: start the same "
    "command again to resume."
)
AGAIN = "What was finished is kept: start the same command again to resume."
ADVICE = {
    errno.ENOSPC: "The disk is full: make room. " + AGAIN,
    errno.EDQUOT: "The disk quota is used up: make room. " + AGAIN,
    errno.EFBIG: "The system allows no file so large (ulimit -f). " + AGAIN,
    errno.EROFS: "The file system is read-only: choose another out.",
    errno.EACCES: "Choose another out, or change the permissions.",
    errno.EPERM: "Choose another out, or change the permissions.",
}


class StopRequest:
    """Signals that ask to stop: the first is noted, for the current step to end; a second one stops at once."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.signal: signal.Signals | None = None

    def __call__(self, number: int, _: FrameType | None) -> None:
        first, self.signal = self.signal is None, signal.Signals(number)
        if self.at_once or not first:
            raise Stopped(self.signal)


class Stopped(BaseException):
    """A signal asked to stop, and all is saved that can be."""

    def __init__(self, number: signal.Signals, what: str = AGAIN) -> None:
        super().__init__(f"stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}. {what}")
        self.number = number


@contextmanager
def catch_stop_signals(*, at_once: bool = False) -> Iterator[StopRequest]:
    """Catch SIGTERM and Ctrl-C while the block runs. at_once: raise Stopped immediately instead of noting the request."""
    request = StopRequest(at_once=at_once)
    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_stop_signals() -> None:
    """Ignore stop signals in a worker, whose parent ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def report_in_one_sentence() -> Iterator[None]:
    """Exit with one sentence on stderr: code 1 for an error, 128 + the signal's number for a stop."""
    try:
        yield
    except TADiSRError as error:
        sys.exit(f"error: {extract_worker_error(str(error))}")
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
    except KeyboardInterrupt:
        print(f"stopped by Ctrl-C. {AGAIN}", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"error: {where}{error.strerror}. {ADVICE.get(error.errno, AGAIN)}")
    except RuntimeError as error:
        if is_dead_worker(error):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise again on the way out
            sys.exit(f"error: {DEAD}")
        failed = find_write_error(error)
        if failed is None:
            raise
        sys.exit(f"error: {failed.strerror}. {ADVICE.get(failed.errno or 0, AGAIN)}")


def next_batch(batches: Iterator[Any]) -> Any:
    """Fetch the next batch of a DataLoader. Raises RuntimeError as torch does, also if a dead worker shows as a broken pipe."""
    try:
        return next(batches)
    except (EOFError, ConnectionError) as error:
        raise RuntimeError("DataLoader worker exited unexpectedly") from error


def find_write_error(error: BaseException) -> OSError | None:
    """Find the operating system's error behind torch's own, which says that a file could not be written."""
    inner = error.__cause__ or error.__context__
    if inner is None:
        return None
    return inner if isinstance(inner, OSError) and inner.errno is not None else find_write_error(inner)


def is_dead_worker(error: RuntimeError) -> bool:
    """Tell whether torch reports that a data worker died."""
    text = str(error)
    return text.startswith("DataLoader worker") and ("exited unexpectedly" in text or "killed by signal" in text)


def extract_worker_error(message: str) -> str:
    """Extract an error's own message from the traceback that torch wraps around a worker's."""
    if not message.startswith("Caught ") or "DataLoader worker process" not in message:
        return message
    last = message.strip().splitlines()[-1]
    return last.split(": ", 1)[-1]
