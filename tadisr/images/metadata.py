"""Read a file's metadata, and adapt it to a resized image."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from PIL import ExifTags, Image

log = logging.getLogger(__name__)

# TIFF tags that describe how pixels are stored in the file they came from, not the image.
STORAGE = {
    254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 284, 288, 289, 290, 291, 292, 293, 301,
    317, 318, 319, 320, 321, 322, 323, 324, 325, 330, 332, 333, 334, 336, 337, 338, 339, 340, 341, 342, 347, 512, 513, 514, 515,
    517, 518, 519, 520, 521, 529, 530, 531, 532, 559, 700, 33723, 34377, 34675, 37724, 50838, 50839,
}  # fmt: skip
RESOLUTION = (282, 283)  # x, y, in pixels per unit
RATIONALS = 1e6  # resolutions outside 1 / RATIONALS to RATIONALS are no resolutions


@dataclass(frozen=True)
class Metadata:
    """exif, xmp: as bytes; dpi: pixels per inch, x and y; profile: the file has an ICC profile; text: of PNG's chunks."""

    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    profile: bool = False
    text: dict[str, str] = field(default_factory=dict)

    def resize_metadata(self, old: tuple[int, int], new: tuple[int, int]) -> Metadata:
        """Describe the same image resized from `old` to `new` (width, height): more pixels on the same paper."""
        factors = (new[0] / old[0], new[1] / old[1])
        dpi = None if self.dpi is None else (self.dpi[0] * factors[0], self.dpi[1] * factors[1])
        return replace(self, dpi=dpi, exif=resize_exif(self.exif, new, factors))


def read_metadata(image: Image.Image, name: str) -> Metadata:
    """Read the metadata of an open image that is already turned upright. EXIF that cannot be read is logged."""
    exif = b""
    try:
        tags = image.getexif()
        for tag in [tag for tag in tags if tag in STORAGE]:
            del tags[tag]
        if len(tags) or tags.get_ifd(ExifTags.IFD.Exif) or tags.get_ifd(ExifTags.IFD.GPSInfo):
            tags[ExifTags.Base.Orientation] = 1
            exif = tags.tobytes()
    except Exception as error:  # Pillow's parser raises whatever a broken block makes it run into
        log.warning("%s: its EXIF cannot be kept (%s).", name, error)
    xmp = image.info.get("xmp", b"")
    return Metadata(
        exif=exif,
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp or b""),
        dpi=read_dpi(image),
        profile=bool(image.info.get("icc_profile")),
        text={key: str(value) for key, value in getattr(image, "text", {}).items() if not key.startswith("XML:")},
    )


def read_dpi(image: Image.Image) -> tuple[float, float] | None:
    """Read the pixels per inch from the file; None if it has none, or nonsense."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None and RESOLUTION[0] not in tags:
        return None  # Pillow reports (1, 1)
    dpi = image.info.get("dpi")
    if not dpi or not all(1 / RATIONALS < float(value) < RATIONALS for value in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def resize_exif(exif: bytes, size: tuple[int, int], factors: tuple[float, float]) -> bytes:
    """Set the size (width, height) and the resolution where the EXIF states them."""
    if not exif:
        return exif
    tags = Image.Exif()
    tags.load(exif)
    for tag, factor in zip(RESOLUTION, factors, strict=True):
        if tag in tags and 1 / RATIONALS < float(tags[tag]) < RATIONALS:
            tags[tag] = float(tags[tag]) * factor
    inner = tags.get_ifd(ExifTags.IFD.Exif)
    for tag, side in zip((ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight), size, strict=True):
        if tag in inner:
            inner[tag] = side
    return tags.tobytes()
