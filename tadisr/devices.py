"""Choose the device and the dtype that command-line arguments ask for."""

from __future__ import annotations

import argparse

import torch

from .errors import TADiSRError
from .model.precision import DTYPES


def choose_placement(arguments: argparse.Namespace) -> tuple[torch.device, torch.dtype]:
    """Return the device and the dtype that the arguments ask for. Raises TADiSRError for a device that is not there."""
    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TADiSRError(f"The device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    if arguments.dtype == "auto":
        return device, torch.float32 if device.type == "cpu" else torch.float16
    return device, DTYPES[arguments.dtype]
