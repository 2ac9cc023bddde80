"""Recognise out-of-memory errors of every kind of device, and free what a failed attempt left behind."""

from __future__ import annotations

import errno
import gc

import torch

# What else torch and its libraries say, in RuntimeErrors of no class of their own.
MESSAGES = (
    "out of memory",  # CUDA error: out of memory, MPS backend out of memory, HIP out of memory
    "cublas_status_alloc_failed", "cusolver_status_alloc_failed", "cudnn_status_alloc_failed",
    "cudnn_status_not_supported",  # what cuDNN says when no algorithm fits into what is free
    "can't allocate memory", "cannot allocate memory", "not enough memory", "unable to allocate",
    "failed to allocate", "insufficient memory",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU or in RAM."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in MESSAGES)


def out_of_memory_reason(error: BaseException) -> str | None:
    """Return the first line of an out-of-memory error, cut to 200 characters; None for any other error."""
    if not is_out_of_memory(error):
        return None
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def free_memory() -> None:
    """Collect what failed calls left in reference cycles, and give cached device memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
