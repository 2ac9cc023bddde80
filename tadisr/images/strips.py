"""Write PNG and TIFF strip by strip, so that the image is never held as a whole."""

from __future__ import annotations

import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin

from .metadata import Metadata

Pixels = np.ndarray[Any, Any]

LEVEL = 4  # of zlib: within 3 % of level 6 on photos, at half its time
FILTER_ROWS = 64  # rows whose PNG filters are chosen at a time
PNG_COLORS = {1: 0, 2: 4, 3: 2, 4: 6}  # colour type by channels
BIG = 2**32 - 2**24  # bytes of pixels from which on a TIFF is a BigTIFF
TIFF_STRIP = 2**20  # bytes of pixels in a strip
INCH = 0.0254  # metres


class PngStrips:
    """A PNG of (height, width, channels) uint8 or uint16 pixels, written from top to bottom. 16 bits as big-endian."""

    def __init__(
        self, file: BinaryIO, shape: tuple[int, int, int], dtype: type[np.generic], metadata: Metadata, profile: bytes
    ) -> None:
        height, width, channels = shape
        self.file, self.dtype = file, np.dtype(dtype)
        self.step = channels * self.dtype.itemsize  # bytes a pixel
        self.above = np.zeros(width * self.step, np.uint8)
        self.squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, 15, 9)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(
            b"IHDR",
            struct.pack(">IIBBBBB", width, height, 8 * self.dtype.itemsize, PNG_COLORS[channels], 0, 0, 0),
        )
        if profile:
            self._chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
        if metadata.dpi:
            self._chunk(b"pHYs", struct.pack(">IIB", *(round(value / INCH) for value in metadata.dpi), 1))
        if metadata.exif:
            self._chunk(b"eXIf", metadata.exif.removeprefix(b"Exif\0\0"))
        for kind, data, *_ in make_png_text(metadata).chunks:
            self._chunk(kind, data)

    def _chunk(self, kind: bytes, data: bytes) -> None:
        PngImagePlugin.putchunk(self.file, kind, data)

    def write(self, rows: Pixels) -> None:
        """Add the next rows, (n, width, channels)."""
        data = rows.astype(self.dtype.newbyteorder(">"), copy=False)
        lines = np.ascontiguousarray(data).view(np.uint8).reshape(len(rows), -1)
        for top in range(0, len(lines), FILTER_ROWS):
            part = lines[top : top + FILTER_ROWS]
            packed = self.squeeze.compress(filter_rows(part, self.above, self.step).data)
            self.above = part[-1].copy()
            if packed:
                self._chunk(b"IDAT", packed)

    def close(self) -> None:
        """Write the end of the file."""
        self._chunk(b"IDAT", self.squeeze.flush())
        self._chunk(b"IEND", b"")


def make_png_text(metadata: Metadata) -> PngImagePlugin.PngInfo:
    """Make PNG's text chunks, XMP among them."""
    info = PngImagePlugin.PngInfo()
    for key, value in metadata.text.items():
        info.add_text(key, value)
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    return info


def filter_rows(lines: Pixels, above: Pixels, step: int) -> Pixels:
    """Apply PNG's filters to rows of bytes (n, w): of Sub, Up and Paeth, the one with the least sum for each row.

    above (w,): the row before them. step: bytes a pixel. Returns (n, 1 + w), each row led by its filter's number.
    """
    upper = np.concatenate([above[None], lines[:-1]])
    left, corner = np.zeros_like(lines), np.zeros_like(lines)
    left[:, step:], corner[:, step:] = lines[:, :-step], upper[:, :-step]
    to_left = np.abs(upper.astype(np.int16) - corner)  # of the estimate left + upper - corner
    to_upper = np.abs(left.astype(np.int16) - corner)
    to_corner = np.abs(left.astype(np.int16) + upper - 2 * corner.astype(np.int16))
    nearest = np.where(
        (to_left <= to_upper) & (to_left <= to_corner), left, np.where(to_upper <= to_corner, upper, corner)
    )
    choices = [(1, lines - left), (2, lines - upper), (4, lines - nearest)]
    sums = [np.abs(filtered.view(np.int8).astype(np.int16)).sum(1, dtype=np.int64) for _, filtered in choices]
    best = np.argmin(sums, 0)
    result = np.empty((len(lines), lines.shape[1] + 1), np.uint8)
    for number, (code, filtered) in enumerate(choices):
        result[best == number, 0] = code
        result[best == number, 1:] = filtered[best == number]
    return result


class TiffStrips:
    """One page of a TIFF after another, each written from top to bottom; deflate with horizontal differences."""

    def __init__(self, file: BinaryIO, size: int, metadata: Metadata, profile: bytes) -> None:
        """size: bytes of the pixels of all pages together. metadata: of every page."""
        self.file, self.metadata, self.profile = file, metadata, profile
        self.big = size > BIG
        self.header = b"II\x2b\0\x08\0\0\0" + struct.pack("<Q", 16) if self.big else b"II\x2a\0" + struct.pack("<L", 8)
        self.pointer = struct.Struct("<Q" if self.big else "<L")  # to a directory
        self.link = len(self.header) - self.pointer.size  # where the next page's place is to be written
        file.write(self.header)

    def begin_page(self, shape: tuple[int, int, int], dtype: type[np.generic]) -> None:
        """Begin the next page, (height, width, channels) uint8 or uint16. Its directory comes before its strips."""
        height, width, channels = shape
        self.rows = max(1, TIFF_STRIP // (width * channels * np.dtype(dtype).itemsize))
        self.shape, self.dtype = shape, np.dtype(dtype).newbyteorder("<")
        self.waiting = np.empty((0, width, channels), self.dtype)
        self.lengths: list[int] = []
        self.count = -(-height // self.rows)
        self.file.seek(0, 2)
        self.file.write(b"\0" * (self.file.tell() % 2))
        self.directory = self.file.tell()
        self.file.write(self._directory([0] * self.count))

    def write(self, rows: Pixels) -> None:
        """Add the next rows, (n, width, channels)."""
        self.waiting = np.concatenate([self.waiting, rows.astype(self.dtype, copy=False)])
        while len(self.waiting) >= self.rows:
            self._strip(self.waiting[: self.rows])
            self.waiting = self.waiting[self.rows :]

    def _strip(self, rows: Pixels) -> None:
        differences = rows.copy()
        differences[:, 1:] -= rows[:, :-1]
        packed = zlib.compress(differences.tobytes(), LEVEL)
        self.file.write(packed)
        self.lengths.append(len(packed))

    def end_page(self) -> None:
        if len(self.waiting):
            self._strip(self.waiting)
        self.file.seek(self.directory)
        self.file.write(self._directory(self.lengths))
        self.file.seek(self.link)
        self.file.write(self.pointer.pack(self.directory))
        entry, count = (20, 8) if self.big else (12, 2)
        self.link = self.directory + count + entry * self.entries

    def _directory(self, lengths: list[int]) -> bytes:
        """The page's directory; Pillow adds its own end to the strips' offsets, which begin there."""
        height, width, channels = self.shape
        tags = TiffImagePlugin.ImageFileDirectory_v2(self.header)
        self._describe(tags)
        offsets = np.cumsum([0, *lengths[:-1]]).tolist()
        alpha = channels in (2, 4)
        numbers = {
            256: width, 257: height, 258: (8 * self.dtype.itemsize,) * channels, 259: 8, 262: 1 if channels < 3 else 2,
            273: tuple(offsets), 277: channels, 278: self.rows, 279: tuple(lengths), 317: 2,
        }  # fmt: skip
        if alpha:
            numbers[338] = 2  # the last channel is alpha, not multiplied into the colours
        long = 16 if self.big else 4
        for tag, value in numbers.items():
            tags.tagtype[tag] = {256: 4, 257: 4, 273: long, 278: 4, 279: long}.get(tag, 3)
            tags[tag] = value
        self.entries = len(tags)
        return tags.tobytes(self.directory)

    def _describe(self, tags: TiffImagePlugin.ImageFileDirectory_v2) -> None:
        if self.metadata.exif:
            exif = Image.Exif()
            exif.load(self.metadata.exif)
            for tag, value in exif.items():
                tags[tag] = exif.get_ifd(tag) if tag in (34665, 34853) else value
        if self.metadata.dpi:
            tags[282], tags[283], tags[296] = *self.metadata.dpi, 2
        for tag, data in ((34675, self.profile), (700, self.metadata.xmp)):
            if data:
                tags.tagtype[tag] = 7 if tag == 34675 else 1
                tags[tag] = data
