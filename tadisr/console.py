"""The streams that a command prints to."""

from __future__ import annotations

import io
import sys


def escape_unknown_characters() -> None:
    """Print characters that the console's encoding lacks as backslash escapes: a file's name is no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
