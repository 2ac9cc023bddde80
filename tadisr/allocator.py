"""The memory allocator of a command that works on large buffers."""

from __future__ import annotations

import ctypes
import os

# Parameters of glibc's mallopt (malloc.h), and what the commands set them to.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
SETTINGS = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 1 << 28}


def keep_buffers() -> bool:
    """Tell glibc to keep freed buffers for the next ones, and return whether it was told.

    By default it hands every large buffer back to the kernel, and the next one costs page faults again: up to half of the
    time of a network on a CPU. It holds for the whole process, so only commands call it, never a library or a node. A
    preloaded allocator, variables MALLOC_... that the user set, and other C libraries are left alone.
    """
    if os.environ.get("LD_PRELOAD") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; on Windows there is no CDLL(None)
        return False
    taken = [mallopt(parameter, value) for parameter, value in SETTINGS.items()]
    return all(one == 1 for one in taken)
