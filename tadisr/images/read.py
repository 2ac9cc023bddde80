"""Read image files: every frame and page, upright, in sRGB, in 8 or 16 bits as they were stored."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from ..errors import ImageError
from .arrays import Pixels, to_array
from .color_spaces import stated_profile
from .deep import check_layout, is_deep, read_deep, read_single, rotate_upright, warn_of_lost_bits
from .metadata import Metadata, read_metadata
from .profiles import cmyk_to_srgb_16, to_srgb, to_srgb_16

SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".pnm", ".avif", ".jp2", ".jpx", ".j2k", ".tga", ".mpo",
}  # fmt: skip
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
GRAY = ("1", "L", "LA", "La")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
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
    """Check whether HEIC files can be read here; registers pillow-heif with Pillow if it is installed."""
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
            pixels = decode_frame(image, path, index)
            animated = "duration" in image.info if place == 0 else animated
            yield Frame(
                pixels,
                read_metadata(image, str(path)),
                place,
                len(indices),
                float(image.info.get("duration", 0)) if animated and len(indices) > 1 else None,
                int(image.info.get("loop", 1)),
            )


# What Pillow's parsers run into in damaged files, beside the errors that they raise on purpose.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError, ArithmeticError, NotImplementedError,
    AssertionError, struct.error, zlib.error,
)  # fmt: skip


@contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Turn what Pillow raises into ImageError with the file's name and what to do."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path} is too large to be an image ({error}).") from error
    except UnidentifiedImageError as error:
        if (Path(path).read_bytes()[:4] if Path(path).is_file() else b"")[:2] in (b"II", b"MM"):
            raise ImageError(
                f"{path} is a TIFF of a kind that Pillow cannot read: save it with 8 or 16 bits for each of 1, 3 or 4 channels."
            ) from error
        raise ImageError(f"{path} is no image this program can read.") from error
    except FileNotFoundError as error:
        raise ImageError(f"{path} is missing.") from error
    except DAMAGE as error:
        raise ImageError(f"{path} is broken: {str(error) or type(error).__name__}.") from error


def list_frames(image: Image.Image) -> list[int]:
    """List the indices of the frames or pages that are images of their own."""
    count = getattr(image, "n_frames", 1)
    if count <= 1 or image.format == "PSD":  # whose first frame is all of its layers together
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


def decode_frame(image: Image.Image, path: str | Path, index: int) -> Pixels:
    """Decode the current frame to (h, w, C) uint8 or uint16. Raises ImageError, and whatever Pillow raises."""
    check_layout(image, path)
    profile = stated_profile(image, path)
    if image.mode.startswith("I") or image.mode == "F":
        return convert_profile(read_single(image, path), profile, path)
    if is_deep(image):
        pixels = read_deep(image, path, index)
        return (
            cmyk_to_srgb_16(pixels, profile, str(path))
            if image.mode == "CMYK"
            else convert_profile(pixels, profile, path)
        )
    warn_of_lost_bits(image, path)
    rotate_upright(image)
    return convert_8(image, profile, path)


def convert_8(image: Image.Image, profile: bytes | None, path: str | Path) -> Pixels:
    """Convert an 8-bit image of any mode to (h, w, C) uint8 in sRGB: grey stays grey, transparency becomes alpha."""
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
    """Convert 16-bit pixels to sRGB; alpha stays as it is."""
    if not profile:
        return pixels
    colors = 1 if pixels.shape[2] < 3 else 3
    return np.concatenate([to_srgb_16(pixels[..., :colors], profile, str(path)), pixels[..., colors:]], -1)
