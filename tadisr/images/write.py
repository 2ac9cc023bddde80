"""Write images: PNG and TIFF in strips, JPEG, WebP and AVIF by Pillow, pages and animations; whole files or none."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from ..atomic_write import create_beside, move_into_place
from ..errors import ConfigError, ImageError
from .metadata import Metadata
from .profiles import make_srgb_profile
from .strips import PngStrips, TiffStrips, make_png_text

log = logging.getLogger(__name__)

Pixels = np.ndarray[Any, Any]
Shape = tuple[int, int, int]  # height, width, channels

QUALITY = 95
EXIF_LIMIT = 65533  # bytes of a JPEG's segment


@dataclass(frozen=True)
class Format:
    """name: Pillow's. limit: pixels of the longest side. pages, animation: whether a file holds several."""

    name: str
    suffixes: tuple[str, ...]
    limit: int = 2**31 - 1
    deep: bool = False  # 16 bits
    pages: bool = False
    animation: bool = False


FORMATS = {
    "png": Format("PNG", (".png",), deep=True, animation=True),
    "jpg": Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), limit=65500),
    "webp": Format("WEBP", (".webp",), limit=16383, animation=True),
    "tif": Format("TIFF", (".tif", ".tiff"), deep=True, pages=True),
    "avif": Format("AVIF", (".avif",), limit=65536, animation=True),
}


def find_format(path: Path) -> str | None:
    """Find the name in FORMATS for a file's ending; None if there is none."""
    return next((name for name, kind in FORMATS.items() if path.suffix.lower() in kind.suffixes), None)


class Writer(ABC):
    """One file, written under a short temporary name beside its place and renamed when it is whole.

    For every page or frame: `begin`, then `write` its rows from top to bottom, then `end`; at last `close`. `abandon`
    instead of `close` leaves nothing behind.
    """

    def __init__(self, path: Path, metadata: Metadata) -> None:
        self.path, self.metadata = path, metadata
        self.profile = make_srgb_profile() if metadata.profile else b""
        handle, self.temporary = create_beside(path)
        self.file: BinaryIO = os.fdopen(handle, "w+b")

    @abstractmethod
    def begin(self, shape: Shape, dtype: type[np.generic], duration: float | None = None) -> None:
        """Begin the next page or frame. duration: in milliseconds, of a frame of an animation."""

    @abstractmethod
    def write(self, rows: Pixels) -> None:
        """Add the next rows (n, width, channels), uint8 or uint16 as begun."""

    @abstractmethod
    def end(self) -> None:
        """End the page or frame."""

    def finish(self) -> None:  # noqa: B027
        """Write what follows the last page, where the format has something there."""

    def close(self) -> None:
        """Complete the file and put it in its place."""
        try:
            self.finish()
            self.file.close()
            move_into_place(self.temporary, self.path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        self.file.close()
        Path(self.temporary).unlink(missing_ok=True)


class PngWriter(Writer):
    """One image as PNG."""

    def begin(self, shape: Shape, dtype: type[np.generic], duration: float | None = None) -> None:
        self.strips = PngStrips(self.file, shape, dtype, self.metadata, self.profile)

    def write(self, rows: Pixels) -> None:
        self.strips.write(rows)

    def end(self) -> None:
        self.strips.close()


class TiffWriter(Writer):
    """Any number of pages as TIFF."""

    def __init__(self, path: Path, metadata: Metadata, *, pages: int = 1) -> None:
        super().__init__(path, metadata)
        self.pages = pages
        self.strips: TiffStrips | None = None

    def begin(self, shape: Shape, dtype: type[np.generic], duration: float | None = None) -> None:
        if self.strips is None:
            size = self.pages * shape[0] * shape[1] * shape[2] * np.dtype(dtype).itemsize
            self.strips = TiffStrips(self.file, size, self.metadata, self.profile)
        self.strips.begin_page(shape, dtype)

    def write(self, rows: Pixels) -> None:
        assert self.strips is not None
        self.strips.write(rows)

    def end(self) -> None:
        assert self.strips is not None
        self.strips.end_page()


class WholeWriter(Writer):
    """JPEG, WebP and AVIF, and animations: by Pillow, which needs every image as a whole, in 8 bits."""

    def __init__(
        self, path: Path, metadata: Metadata, kind: str, *, quality: int | None, loop: int = 0, animated: bool = False
    ) -> None:
        super().__init__(path, metadata)
        self.kind, self.quality, self.loop, self.animated = kind, quality, loop, animated
        self.frames: list[Image.Image] = []
        self.durations: list[float] = []

    def begin(self, shape: Shape, dtype: type[np.generic], duration: float | None = None) -> None:
        self.pixels, self.filled = np.empty(shape, np.uint8), 0
        self.durations.append(duration or 0)

    def write(self, rows: Pixels) -> None:
        self.pixels[self.filled : self.filled + len(rows)] = rows
        self.filled += len(rows)

    def end(self) -> None:
        channels = self.pixels.shape[2]
        if self.kind == "jpg" and channels in (2, 4):
            log.warning("%s: JPEG has no transparency, the image is laid on white.", self.path)
            alpha = self.pixels[..., -1:].astype(np.uint16)
            colors = self.pixels[..., :-1]
            self.pixels = ((colors * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        flat = self.pixels[..., 0] if self.pixels.shape[2] == 1 else self.pixels
        self.frames.append(Image.fromarray(flat))
        del self.pixels

    def finish(self) -> None:
        first, *rest = self.frames
        options: dict[str, Any] = {"icc_profile": self.profile} if self.profile else {}
        if self.metadata.exif and not (self.kind == "jpg" and len(self.metadata.exif) > EXIF_LIMIT):
            options["exif"] = self.metadata.exif
        if self.metadata.xmp and self.kind != "png":
            options["xmp"] = self.metadata.xmp
        if self.kind == "png":
            options["pnginfo"] = make_png_text(self.metadata)
        if self.metadata.dpi:
            options["dpi"] = self.metadata.dpi
        if self.kind == "webp":
            lossless = self.quality is None
            options |= {"lossless": lossless, "quality": 75 if lossless else self.quality, "method": 4, "exact": True}
        elif self.kind != "png":
            options["quality"] = self.quality or QUALITY
        if self.kind == "jpg":
            options["subsampling"] = 0  # colours at full size: text is coloured
        if self.animated:
            durations = [round(duration) for duration in self.durations]
            options |= {"save_all": True, "append_images": rest, "duration": durations, "loop": self.loop}
        first.save(self.file, format=FORMATS[self.kind].name, **options)


def open_writer(
    path: Path,
    metadata: Metadata,
    *,
    kind: str,
    quality: int | None = None,
    pages: int = 1,
    animated: bool = False,
    loop: int = 0,
) -> Writer:
    """Open a writer of `kind`, a name in FORMATS, for a file of one image, of several pages, or an animation.

    quality: 1 to 100, of JPEG, WebP and AVIF; None: 95, and lossless WebP. Raises ConfigError.
    """
    if kind not in FORMATS:
        raise ConfigError(f"format is {kind!r}, expected one of {', '.join(FORMATS)}.")
    if quality is not None and not 1 <= quality <= 100:
        raise ConfigError(f"quality is {quality}, expected 1 to 100.")
    Image.init()
    if FORMATS[kind].name not in Image.SAVE:
        raise ConfigError(
            f"{path}: this Pillow cannot write {FORMATS[kind].name} (AVIF: since 11.3); choose another format."
        )
    if kind == "tif":
        return TiffWriter(path, metadata, pages=pages)
    if kind == "png" and not animated:
        return PngWriter(path, metadata)
    return WholeWriter(path, metadata, kind, quality=quality, loop=loop, animated=animated)


def check_size(path: Path, kind: str, width: int, height: int) -> None:
    """Raise ImageError for an image that the format cannot hold."""
    limit = FORMATS[kind].limit
    if max(width, height) > limit:
        raise ImageError(
            f"{path} would be {width}x{height}, but {FORMATS[kind].name} ends at {limit} pixels a side: choose PNG or TIFF."
        )


def to_levels(rows: Pixels, dtype: type[np.generic]) -> Pixels:
    """Round values from 0 to 1 to uint8 or uint16."""
    most = np.iinfo(np.dtype(dtype)).max  # pyright: ignore[reportCallIssue, reportArgumentType]
    return np.rint(np.clip(rows, 0, 1) * most).astype(dtype)
