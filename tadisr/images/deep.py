"""Read images of more than 8 bits a channel, of which Pillow alone would keep 8, or the wrong ones."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import ImageError
from .arrays import Pixels, to_array

log = logging.getLogger(__name__)

# Pillow unpacks 16-bit colours to their high bytes; in the other byte order it unpacks the low ones.
SWAPPED = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
GRAY_ALPHA = "LA;16B"  # four bytes a pixel, which Pillow also unpacks as they are
PREMULTIPLIED = "RGBa"
COLORS = ("RGB", "RGBA", "CMYK")
SIXTEEN_IN_I = {"PNG", "PPM", "JPEG2000"}  # formats whose images of mode I hold 0 to 65535
BITS, PHOTOMETRIC, PLANES, SAMPLES = 258, 262, 284, 339  # TIFF tags
WHITE_IS_ZERO, SEPARATE, SIGNED = 0, 2, 2  # values of PHOTOMETRIC, PLANES, SAMPLES
TWELVE = "I;12"  # Pillow gives its values from 0 to 4095
HEADER = 65536  # bytes of a file in which its boxes tell the depth


def check_layout(image: Image.Image, path: str | Path) -> None:
    """Raise ImageError for a TIFF whose pixels Pillow reads as other numbers than they are."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(PLANES) == SEPARATE and max(tags.get(BITS, (8,))) > 8:
        raise ImageError(
            f"{path} is a TIFF of 16 bits that stores each channel apart (PlanarConfiguration 2), which Pillow cannot read: "
            "save it with interleaved channels."
        )
    if SIGNED in tags.get(SAMPLES, ()) and image.mode == "L":
        raise ImageError(
            f"{path} has signed 8-bit pixels and does not say which is white: bring it to 8 or 16 unsigned bits first."
        )


def is_deep(image: Image.Image) -> bool:
    """Tell whether `read_deep` gives all bits of a colour image."""
    raw = find_rawmode(image)
    return image.mode in COLORS and (";16" in raw or (image.format == "PPM" and read_white(image) > 255))


def find_rawmode(image: Image.Image) -> str:
    """How Pillow's decoder finds the pixels in the file, such as "RGB;16B"; "" where it does not say."""
    tiles = getattr(image, "tile", [])
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def read_white(image: Image.Image) -> int:
    """Read the value that stands for white in a PPM."""
    tiles = getattr(image, "tile", [])
    args = tiles[0].args if tiles else None
    return args[1] if isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], int) else 255


def rotate_upright(image: Image.Image) -> None:
    """Apply EXIF's orientation in place, and remove it."""
    ImageOps.exif_transpose(image, in_place=True)


def read_deep(image: Image.Image, path: str | Path, index: int) -> Pixels:
    """Read a 16-bit colour image of `is_deep` as (h, w, C) uint16, C from 2 to 4; of CMYK its four inks."""
    if image.format == "PPM":
        return read_ppm(image, path)
    raw = find_rawmode(image)
    if raw == GRAY_ALPHA:
        pairs = decode_as(path, index, "RGBA")[0].astype(np.uint16)
        return np.stack([pairs[..., 0] << 8 | pairs[..., 1], pairs[..., 2] << 8 | pairs[..., 3]], -1)
    kind, order = raw.split(";")
    plain = "RGBA" if kind == PREMULTIPLIED else kind
    high, transparent = decode_as(path, index, f"{plain};{order}")
    pixels = high.astype(np.uint16) << 8
    pixels |= decode_as(path, index, f"{plain};{SWAPPED[order]}")[0]
    if kind == PREMULTIPLIED:
        divide_by_alpha(pixels)
    return add_transparency(pixels, transparent) if pixels.shape[2] == 3 else pixels


def decode_as(path: str | Path, index: int, kind: str) -> tuple[Pixels, Any]:
    """Decode frame `index` as another raw mode, upright: 8 bits of each channel; and its transparent colour."""
    with Image.open(path) as image:
        if index:
            image.seek(index)
        for number, tile in enumerate(image.tile):
            arguments = (kind, *tile.args[1:]) if isinstance(tile.args, tuple) else kind
            image.tile[number] = tile._replace(args=arguments)
        rotate_upright(image)
        return to_array(image), image.info.get("transparency")


def divide_by_alpha(pixels: Pixels, rows: int = 256) -> None:
    """Undo the multiplication of the colours by alpha, in place, (h, w, 4) uint16."""
    for top in range(0, len(pixels), rows):
        strip = pixels[top : top + rows]
        colors = strip[..., :3].astype(np.float32) * (65535 / np.maximum(strip[..., 3:], 1).astype(np.float32))
        strip[..., :3] = colors.round().clip(0, 65535)


def read_ppm(image: Image.Image, path: str | Path) -> Pixels:
    """Read a colour PPM of up to 16 bits, binary or plain."""
    width, height = image.size
    tile = image.tile[0]  # pyright: ignore[reportAttributeAccessIssue]
    if tile.codec_name == "ppm":
        values = np.fromfile(path, ">u2", width * height * 3, offset=tile.offset)
    else:
        data = re.sub(rb"#[^\n]*", b"", Path(path).read_bytes()[tile.offset :])
        values = np.array(data.split()[: width * height * 3], np.uint16)
    if values.size != width * height * 3:
        raise ImageError(f"{path} is broken: it has {values.size} values, expected {width * height * 3}.")
    return scale_values(values.reshape(height, width, 3), read_white(image))


def scale_values(values: Pixels, most: int) -> Pixels:
    """Scale values from 0 to `most` to uint16 from 0 to 65535."""
    if most == 65535:
        return values.astype(np.uint16)
    return np.rint(values * np.float64(65535 / most)).clip(0, 65535).astype(np.uint16)


def read_single(image: Image.Image, path: str | Path) -> Pixels:
    """Read a 16-bit grey, integer or float image as (h, w, 1 or 2) uint16. Raises ImageError if its white is not known."""
    raw, tags = find_rawmode(image), getattr(image, "tag_v2", {})
    rotate_upright(image)
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
    pixels = scale_values(values, 4095 if raw == TWELVE else 65535)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        pixels = 65535 - pixels
    return add_transparency(pixels, image.info.get("transparency"))


def add_transparency(pixels: Pixels, transparent: Any) -> Pixels:
    """Add the alpha channel that one transparent value stands for, at 16 bits."""
    if not isinstance(transparent, int | tuple):
        return pixels
    alpha = np.where((pixels == np.asarray(transparent)).all(-1, keepdims=True), 0, 65535).astype(np.uint16)
    return np.concatenate([pixels, alpha], -1)


def warn_of_lost_bits(image: Image.Image, path: str | Path) -> None:
    """Log where a file stores more bits than the 8 that Pillow decodes."""
    bits = count_stored_bits(image, path)
    if bits > 8:
        log.warning(
            "%s stores %d bits a channel, of which Pillow decodes 8: save it as 16-bit PNG or TIFF to keep them.",
            path,
            bits,
        )


def count_stored_bits(image: Image.Image, path: str | Path) -> int:
    """Count the bits per channel of the formats that Pillow decodes to 8 bits."""
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS, (8,)))  # pyright: ignore[reportAttributeAccessIssue]
    if image.format not in ("JPEG2000", "AVIF", "HEIF", "SGI"):
        return 8
    if image.format == "HEIF":
        return int(image.info.get("bit_depth", 8))
    with open(path, "rb") as file:
        start = file.read(HEADER)
    if image.format == "SGI":
        return 8 * start[3]
    if image.format == "AVIF":
        box = start.find(b"av1C")  # version, profile and level, then tier, high_bitdepth, twelve_bit, ...
        flags = start[box + 6] if 0 <= box < len(start) - 6 else 0
        return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    size = start.find(b"\xff\x51")  # JPEG 2000's SIZ: 40 bytes on stands the first channel's depth
    return (start[size + 40] & 0x7F) + 1 if 0 <= size < len(start) - 40 else 8
