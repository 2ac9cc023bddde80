"""The one PSNR of training, evaluation and data building."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST = 100.0  # dB: of two equal images, so that a mean stays a number


def compute_psnr(first: Any, second: Any, *, peak: float = 255.0) -> float:
    """Compute the PSNR in dB over all values of two arrays or CPU tensors of one shape and range 0 to `peak`, at most 100."""
    error = float(np.square(np.asarray(first, np.float64) - np.asarray(second, np.float64)).mean())
    return MOST if error == 0 else min(MOST, 10 * float(np.log10(peak**2 / error)))
