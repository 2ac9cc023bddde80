"""Read image files: every frame and page, upright, in sRGB, in 8 or 16 bits as they were stored."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ..errors import ImageError
from .metadata import Metadata, read_metadata
from .profiles import to_srgb, to_srgb_16

Pixels = np.ndarray[Any, Any]

SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".jp2", ".jpx", ".j2k", ".tga", ".mpo",
}  # fmt: skip
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
ROWS = 512  # of a decoded image that are copied at a time
GRAY = ("1", "L", "LA", "La")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
# Pillow unpacks 16-bit colours to their high bytes; in the other byte order it unpacks the low ones.
SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
GRAY_ALPHA_16 = "LA;16B"  # four bytes a pixel, which Pillow also unpacks as they are
SIXTEEN_IN_I = {"PNG", "PPM"}  # formats whose images of mode I hold 0 to 65535
REDUCED = 1  # bit of TIFF's NewSubfileType: a smaller version of another page
STEREO = "Multi-Frame Image"  # MPO's types that are images of their own; others are previews and gain maps


@dataclass(frozen=True)
class Frame:
    """One image of a file: (h, w, C) uint8 or uint16 in sRGB, upright, C 1 (grey), 2 (grey, alpha), 3 or 4 (RGBA).

    index of count: its place in the file. duration: milliseconds in an animation, None for a page. loop: how often an
    animation repeats, 0 for ever.
    """

    pixels: Pixels
    metadata: Metadata = field(default_factory=Metadata)
    index: int = 0
    count: int = 1
    duration: float | None = None
    loop: int = 0


@cache
def has_heif() -> bool:
    """Whether HEIC files can be read here; registers pillow-heif with Pillow where it is installed."""
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    register_heif_opener()
    return True


def readable_suffixes() -> set[str]:
    return SUFFIXES | (HEIF_SUFFIXES if has_heif() else set())


def read_frames(path: str | Path) -> Iterator[Frame]:
    """Read every frame or page of a file, one at a time.

    Left out are what is no image of its own: reduced pages of a TIFF, previews and gain maps in a phone's JPEG.
    Raises ImageError for a file that is no image, broken, too large, or of values whose white is not known.
    """
    if Path(path).suffix.lower() in HEIF_SUFFIXES and not has_heif():
        raise ImageError(
            f"{path} is HEIC, which needs pillow-heif: pip install pillow-heif, or save it as JPEG or PNG."
        )
    with named_errors(path), Image.open(path) as image:
        indices = list_frames(image)
        animated = False
        for place, index in enumerate(indices):
            if len(indices) > 1:
                image.seek(index)
            pixels = decode(image, path, index)
            animated = "duration" in image.info if place == 0 else animated
            yield Frame(
                pixels,
                read_metadata(image, str(path)),
                place,
                len(indices),
                float(image.info.get("duration", 0)) if animated and len(indices) > 1 else None,
                int(image.info.get("loop", 1)),
            )


@contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Turn what Pillow raises into ImageError with the file's name and what to do."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to be a picture ({error}).") from error
    except UnidentifiedImageError as error:
        if (Path(path).read_bytes()[:4] if Path(path).is_file() else b"")[:2] in (b"II", b"MM"):
            raise ImageError(
                f"{path} is a TIFF of a kind that Pillow cannot read: save it with 8 or 16 bits for each of 1, 3 or 4 channels."
            ) from error
        raise ImageError(f"{path} is no picture this program can read.") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path} is missing.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} is broken: {error}.") from error


def list_frames(image: Image.Image) -> list[int]:
    """Indices of the frames or pages that are images of their own."""
    count = getattr(image, "n_frames", 1)
    if count == 1:
        return [0]
    if image.format == "MPO":
        types = [str(entry["Attribute"]["MPType"]) for entry in image.mpinfo[0xB002]]  # pyright: ignore[reportAttributeAccessIssue]
        return [i for i in range(count) if i == 0 or types[i].startswith(STEREO)]
    if image.format == "TIFF":
        kept = []
        for index in range(count):
            image.seek(index)
            if not int(image.tag_v2.get(254, 0)) & REDUCED:  # pyright: ignore[reportAttributeAccessIssue]
                kept.append(index)
        image.seek(0)
        return kept or [0]
    return list(range(count))


def decode(image: Image.Image, path: str | Path, index: int) -> Pixels:
    """The pixels of the current frame, (h, w, C) uint8 or uint16. Raises ImageError, and whatever Pillow raises."""
    raw = rawmode(image)
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I") or image.mode == "F":
        upright(image)
        return convert_profile(single_channel(image, path), profile, path)
    if ";16" in raw and image.mode in ("RGB", "RGBA"):
        return convert_profile(read_16(path, index, raw), profile, path)
    upright(image)
    return convert_8(image, profile, path)


def rawmode(image: Image.Image) -> str:
    """How Pillow's decoder finds the pixels in the file, such as "RGB;16B"; "" where it does not say."""
    tiles = getattr(image, "tile", [])
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def upright(image: Image.Image) -> None:
    """Apply EXIF's orientation in place, and remove it."""
    ImageOps.exif_transpose(image, in_place=True)


def single_channel(image: Image.Image, path: str | Path) -> Pixels:
    """A 16-bit grey, integer or float image as (h, w, 1 or 2) uint16. Raises ImageError where white is not known."""
    values = to_array(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (np.isfinite(values).all() and low >= 0 and high <= 1):
            raise ImageError(
                f"{path} has float pixels from {low:g} to {high:g}, expected 0 to 1: bring it to 8 or 16 bits first."
            )
        return (values * 65535).round().astype(np.uint16)
    if not image.mode.startswith("I;16") and image.format not in SIXTEEN_IN_I:
        raise ImageError(
            f"{path} has signed or 32-bit integer pixels, from {low} to {high}, and does not say which is white: bring it "
            "to 8 or 16 bits first."
        )
    return with_transparency(values.astype(np.uint16), image.info.get("transparency"))


def with_transparency(pixels: Pixels, transparent: Any) -> Pixels:
    """Add the alpha channel that one transparent value stands for, at 16 bits."""
    if not isinstance(transparent, int | tuple):
        return pixels
    alpha = np.where((pixels == np.asarray(transparent)).all(-1, keepdims=True), 0, 65535).astype(np.uint16)
    return np.concatenate([pixels, alpha], -1)


def read_16(path: str | Path, index: int, raw: str) -> Pixels:
    """Decode 16-bit colours twice, for their high and their low bytes, which is all that Pillow gives at once."""

    def read_as(kind: str) -> Image.Image:
        image = Image.open(path)
        if index:
            image.seek(index)
        for number, tile in enumerate(image.tile):
            arguments = (kind, *tile.args[1:]) if isinstance(tile.args, tuple) else kind
            image.tile[number] = tile._replace(args=arguments)
        return image

    if raw == GRAY_ALPHA_16:
        with read_as("RGBA") as image:
            upright(image)
            pairs = to_array(image).astype(np.uint16)
            return np.stack([pairs[..., 0] << 8 | pairs[..., 1], pairs[..., 2] << 8 | pairs[..., 3]], -1)
    kind, order = raw.split(";")
    with read_as(raw) as high:
        upright(high)
        pixels = to_array(high).astype(np.uint16) << 8
        transparent = high.info.get("transparency")
    with read_as(f"{kind};{SWAPPED[order]}") as low:
        upright(low)
        pixels |= to_array(low)
    return with_transparency(pixels, transparent) if pixels.shape[2] == 3 else pixels


def convert_8(image: Image.Image, profile: bytes | None, path: str | Path) -> Pixels:
    """An 8-bit image of any mode as (h, w, C) uint8 in sRGB: grey stays grey, transparency becomes alpha."""
    animated = image.format == "GIF" and getattr(image, "n_frames", 1) > 1  # whose later frames may turn transparent
    transparent = animated or image.mode in TRANSPARENT or "transparency" in image.info
    if image.mode == "LAB":
        lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
        profile = None
    elif image.mode == "CMYK":
        image = to_srgb(image, profile, str(path)) if profile else image.convert("RGB")
        profile = None
    elif image.mode in GRAY:
        image = image.convert("LA" if transparent else "L") if image.mode != "L" or transparent else image
    elif image.mode != "RGB" or transparent:
        image = image.convert("RGBA" if transparent else "RGB")
    if profile and transparent:
        *bands, alpha = image.split()
        colors = to_srgb(Image.merge("RGB", bands) if len(bands) == 3 else bands[0], profile, str(path))
        return np.concatenate([to_array(colors), to_array(alpha)], -1)
    return to_array(to_srgb(image, profile, str(path)) if profile else image)


def convert_profile(pixels: Pixels, profile: bytes | None, path: str | Path) -> Pixels:
    """16-bit pixels to sRGB; alpha stays as it is."""
    if not profile:
        return pixels
    colors = 1 if pixels.shape[2] < 3 else 3
    return np.concatenate([to_srgb_16(pixels[..., :colors], profile, str(path)), pixels[..., colors:]], -1)


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
