"""Convert pixels to sRGB by the ICC profile that their file carries."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms

log = logging.getLogger(__name__)

GRID = 33  # nodes per axis of the table that 16-bit pixels go through
INK_GRID = 17  # the same of CMYK's four axes
CLOSE = 1  # levels of 255 that a profile may differ from sRGB and still count as it
ROWS = 256  # of 16-bit pixels converted at a time
CREATED = slice(24, 36)  # the date in a profile's header: left out, so that equal images make equal files


def make_srgb_profile() -> bytes:
    """Make sRGB's ICC profile, the same bytes every time."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[CREATED] = bytes(12)
    return bytes(data)


def to_srgb(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """Convert an 8-bit L, RGB or CMYK image by its profile. L stays L; CMYK becomes RGB.

    A profile that is sRGB leaves the pixels as they are. One that cannot be used is logged, and ignored.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space: str = source.profile.xcolor_space  # pyright: ignore[reportAttributeAccessIssue]
        if space.strip() == "RGB" and image.mode == "L":
            image = image.convert("RGB")
            return image.getchannel("G") if is_srgb(source) else transform_profile(image, source).convert("L")
        if image.mode == "RGB" and is_srgb(source):
            return image
        converted = transform_profile(image, source)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        log.warning("%s: its ICC profile cannot be used (%s). Its colours are taken as sRGB.", name, error)
        return image.convert("RGB") if image.mode == "CMYK" else image
    return converted.getchannel("G") if image.mode == "L" else converted


def transform_profile(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """Convert to sRGB, relative colorimetric with black point compensation. Raises PyCMSError."""
    target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(
        image,
        source,
        target,
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None  # it is None only with inPlace
    return converted


def is_srgb(source: ImageCms.ImageCmsProfile) -> bool:
    """Check whether a profile leaves RGB colours where they are, to within CLOSE levels. Raises PyCMSError."""
    nodes = make_color_grid(9)
    moved = np.asarray(transform_profile(Image.fromarray(nodes), source), np.int16)
    return bool(np.abs(moved - nodes).max() <= CLOSE)


def make_color_grid(side: int) -> np.ndarray[Any, Any]:
    """Make every combination of `side` levels: (side * side, side, 3) uint8, blue fastest, then green, then red."""
    levels = np.linspace(0, 255, side).round().astype(np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(side * side, side, 3)


def to_srgb_16(pixels: np.ndarray[Any, Any], profile: bytes, name: str) -> np.ndarray[Any, Any]:
    """Convert (h, w, C) uint16 pixels, C 1 or 3, by a table of the profile's 8-bit conversion, interpolated.

    Smooth to 16 bits, right to about one level of 255: ImageCms has no 16-bit RGB. Logs as `to_srgb` does.
    """
    if pixels.shape[2] == 1:
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        table = np.asarray(to_srgb(ramp, profile, name), np.float32)[0]
        if np.abs(table - np.arange(256)).max() <= CLOSE:
            return pixels
        return np.interp(pixels, np.linspace(0, 65535, 256), table * 257).round().astype(np.uint16)
    nodes = make_color_grid(GRID)
    moved = np.asarray(to_srgb(Image.fromarray(nodes), profile, name))
    if (moved == nodes).all():
        return pixels
    table = torch.from_numpy(moved.reshape(GRID, GRID, GRID, 3).astype(np.float32)).permute(3, 0, 1, 2)[None] / 255
    converted = np.empty_like(pixels)
    for top in range(0, len(pixels), ROWS):
        strip = torch.from_numpy(pixels[top : top + ROWS].astype(np.float32)) / 65535
        places = (strip.flip(-1) * 2 - 1)[None, None]  # grid_sample's x, y, z are blue, green, red
        found = F.grid_sample(table, places, mode="bilinear", align_corners=True, padding_mode="border")
        converted[top : top + ROWS] = (found[0, :, 0].permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16)
    return converted


def cmyk_to_srgb_16(inks: np.ndarray[Any, Any], profile: bytes | None, name: str) -> np.ndarray[Any, Any]:
    """Convert (h, w, 4) uint16 CMYK to (h, w, 3) uint16, by a table of the profile's 8-bit conversion, interpolated.

    Without a profile each ink takes its share of the light: (1 - C)(1 - K), as Pillow has it.
    """
    table = None if profile is None else ink_table(profile, name)
    converted = np.empty((*inks.shape[:2], 3), np.uint16)
    for top in range(0, len(inks), ROWS):
        strip = torch.from_numpy(inks[top : top + ROWS].astype(np.float32)) / 65535
        colors = (1 - strip[..., :3]) * (1 - strip[..., 3:]) if table is None else look_up_inks(table, strip)
        converted[top : top + ROWS] = (colors * 65535).round().clamp(0, 65535).numpy().astype(np.uint16)
    return converted


def ink_table(profile: bytes, name: str) -> torch.Tensor:
    """What every combination of INK_GRID levels of four inks becomes: (3, K and C, M, Y) in [0, 1]."""
    levels = np.linspace(0, 255, INK_GRID).round().astype(np.uint8)
    black, cyan, magenta, yellow = np.meshgrid(levels, levels, levels, levels, indexing="ij")
    nodes = np.stack([cyan, magenta, yellow, black], -1).reshape(INK_GRID**2, INK_GRID**2, 4)
    moved = np.asarray(to_srgb(Image.fromarray(nodes, "CMYK"), profile, name), np.float32) / 255
    return torch.from_numpy(moved).reshape(INK_GRID**2, INK_GRID, INK_GRID, 3).permute(3, 0, 1, 2)


def look_up_inks(table: torch.Tensor, inks: torch.Tensor) -> torch.Tensor:
    """Interpolate `ink_table` at (h, w, 4) inks in [0, 1]: between the two nearest levels of black, each of them in 3D."""
    cyan, magenta, yellow, black = inks.unbind(-1)
    level = (black * (INK_GRID - 1)).floor().clamp(max=INK_GRID - 2)
    found = []
    for slab in (level, level + 1):
        depth = (slab * INK_GRID + cyan * (INK_GRID - 1)) / (INK_GRID**2 - 1)
        places = torch.stack([yellow, magenta, depth], -1) * 2 - 1
        found.append(F.grid_sample(table[None], places[None, None], mode="bilinear", align_corners=True)[0, :, 0])
    return torch.lerp(found[0], found[1], black * (INK_GRID - 1) - level).permute(1, 2, 0)
