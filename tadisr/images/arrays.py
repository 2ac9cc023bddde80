"""Pixels of Pillow's images as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, Any]

ROWS = 512  # of a decoded image that are copied at a time


def to_array(image: Image.Image) -> Pixels:
    """Copy an image's pixels to (h, w, C), strip by strip: Pillow's own copy is made three times over."""
    image.load()
    width, height = image.size
    first = np.asarray(image.crop((0, 0, width, min(ROWS, height))))
    pixels = np.empty((height, width, 1 if first.ndim == 2 else first.shape[2]), first.dtype.newbyteorder("="))
    for top in range(0, height, ROWS):
        strip = np.asarray(image.crop((0, top, width, min(top + ROWS, height))))
        pixels[top : top + ROWS] = strip.reshape(*strip.shape[:2], -1)
    return pixels
