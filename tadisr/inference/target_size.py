"""From a wanted size to a magnification, and to passes of the network, which magnifies by 4 at most."""

from __future__ import annotations

import math

from ..config import SCALE
from ..errors import ConfigError

TARGETS = ("scale", "shortest side", "longest side", "megapixels")
MOST = SCALE**2  # two passes


def scale_for(height: int, width: int, target: str, size: float) -> float:
    """Return the magnification that brings an image to `size`, at least 1.

    target: what `size` is: the scale itself, pixels of the shortest or longest side, or megapixels of 10^6 pixels.
    Raises ConfigError for another target, a size that is not above 0, and a magnification of more than MOST.
    """
    if target not in TARGETS:
        raise ConfigError(f"resize_to is {target!r}, expected one of {', '.join(TARGETS)}.")
    if not size > 0:
        raise ConfigError(f"The {target} is {size}, expected more than 0.")
    scale = {
        "scale": size,
        "shortest side": size / min(height, width),
        "longest side": size / max(height, width),
        "megapixels": math.sqrt(size * 1e6 / (height * width)),
    }[target]
    if scale > MOST:
        raise ConfigError(
            f"{size:g} as {target} is {scale:.1f} times the image of {width}x{height}: at most {MOST} times."
        )
    return max(1.0, scale)


def split_passes(scale: float) -> list[float]:
    """Split a magnification into passes of the network: of SCALE, and the last one of the rest."""
    passes = []
    while scale > SCALE:
        passes.append(float(SCALE))
        scale /= SCALE
    return [*passes, scale]
