"""The interface of a source of images, and reading images from disk."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tadisr.errors import TADiSRError

Pixels = NDArray[np.uint8]


class SourceError(TADiSRError):
    """A data set, or one image of it, is missing, broken, or not laid out as its owners publish it."""


@dataclass(frozen=True)
class Item:
    """One image and what is known of the text in it."""

    key: str
    image: Pixels  # (h, w, 3) RGB
    mask: Pixels | None = None  # (h, w), 0 to 255; None where nobody drew one
    label: str | None = None  # what a human says it reads


class Source(Protocol):
    """A list of items that can be read in any order, by any process: sources pickle, and open their files lazily."""

    name: str
    kind: str
    licence: str

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Return the item's name: unique in the source, stable from run to run, known without decoding."""
        ...

    def __getitem__(self, index: int) -> Item:
        """Raises SourceError, naming the file, for a broken item; IndexError outside the source."""
        ...


def check_index(index: int, count: int) -> int:
    """Check an index against the count, and resolve a negative one. Raises IndexError."""
    if not -count <= index < count:
        raise IndexError(f"item {index} of {count}")
    return index % count


def decode_image(data: bytes, name: str, *, upright: bool = True) -> Pixels:
    """Decode an image file's bytes to (h, w, 3) RGB; transparency on white, 16 bits reduced to 8.

    upright: rotate as EXIF says. Raises SourceError for broken, truncated or foreign data.

    upright: turn it as EXIF says. Raises SourceError for what is broken, truncated, or no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            file.load()
            return _rgb(ImageOps.exif_transpose(file) if upright else file)
    except Exception as error:  # Pillow's plug-ins raise nearly anything on broken files
        raise SourceError(f"{name} cannot be read as an image: {_reason(error)}.") from error


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        return (np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return np.array(image.convert("RGB"))


def read_image(path: Path, *, upright: bool = True) -> Pixels:
    """Read an image file as (h, w, 3) RGB. Raises SourceError."""
    return decode_image(read_bytes(path), str(path), upright=upright)


def read_mask(path: Path) -> Pixels:
    """Read a mask file as (h, w) of its stored values: a palette's indices, not its colours. Raises SourceError."""
    try:
        with Image.open(io.BytesIO(read_bytes(path))) as file:
            file.load()
            image = file if file.mode in ("L", "P", "1") else file.convert("L")
            array: NDArray[Any] = np.array(image)
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(f"{path} cannot be read as a mask: {_reason(error)}.") from error
    return array.astype(np.uint8) * 255 if array.dtype == np.bool_ else array


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises SourceError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}.") from error


def _reason(error: Exception) -> str:
    return str(error).rstrip(".").replace("<_io.BytesIO object at", "").split(" 0x")[0] or type(error).__name__
