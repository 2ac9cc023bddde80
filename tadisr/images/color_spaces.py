"""Colour spaces that a file states without an ICC profile, as ICC profiles: PNG's gAMA, cHRM and cICP, AVIF's nclx."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import numpy as np
from PIL import Image

log = logging.getLogger(__name__)

Chromaticities = tuple[float, ...]  # x, y of white, red, green and blue

D65 = (0.3127, 0.3290)
SRGB = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PRIMARIES = {  # ITU-T H.273's ColourPrimaries
    1: SRGB,
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
HDR = {16: "PQ", 18: "HLG"}  # TransferCharacteristics whose white is above the screen's
SRGB_GAMMA = 1 / 2.2  # as gAMA states it for sRGB's curve
CLOSE = 1e-3  # chromaticities and gammas that differ by less are the same
CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # sRGB's: ICC's parametric curve of type 3
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50 = np.array([0.9642, 1.0, 0.8249])  # the white of ICC's connection space
HEADER = 65536  # bytes of a file in which its boxes and chunks tell the colour space


def stated_profile(image: Image.Image, path: str | Path) -> bytes | None:
    """Return the ICC profile of an image, or one made of what its file states otherwise; None if that is sRGB or nothing.

    The order is PNG's: cICP, iCCP, sRGB, then gAMA and cHRM. HDR is logged: its colours are taken as of their primaries.
    """
    points = read_code_points(image, path)
    if points is not None and points[0] in PRIMARIES:
        if points[1] in HDR:
            log.warning("%s is HDR (%s): its brightness is taken as of sRGB.", path, HDR[points[1]])
        return None if points[0] == 1 else make_profile(PRIMARIES[points[0]])
    if image.info.get("icc_profile"):
        return image.info["icc_profile"]
    if image.format != "PNG" or "srgb" in image.info:
        return None
    gamma = image.info.get("gamma", SRGB_GAMMA)
    chromaticities = tuple(image.info.get("chromaticity", SRGB))
    standard = bool(np.allclose(chromaticities, SRGB, atol=CLOSE))
    if (standard and abs(gamma - SRGB_GAMMA) < CLOSE) or not 0.1 < gamma < 10:
        return None
    return make_profile(chromaticities, None if abs(gamma - SRGB_GAMMA) < CLOSE else 1 / gamma)


def read_code_points(image: Image.Image, path: str | Path) -> tuple[int, int] | None:
    """Read primaries and transfer of PNG's cICP or AVIF's nclx box, numbered as in H.273."""
    if image.format not in ("PNG", "AVIF"):
        return None
    with open(path, "rb") as file:
        start = file.read(HEADER)
    if image.format == "AVIF":
        box = start.find(b"colrnclx")
        return struct.unpack_from(">HH", start, box + 8) if 0 <= box < len(start) - 12 else None
    place = 8
    while place + 12 <= len(start) and (kind := start[place + 4 : place + 8]) != b"IDAT":
        if kind == b"cICP":
            return start[place + 8], start[place + 9]
        place += 12 + int.from_bytes(start[place : place + 4], "big")
    return None


def make_profile(chromaticities: Chromaticities, gamma: float | None = None) -> bytes | None:
    """Make an ICC v4 matrix profile of a white, three primaries and a gamma, or sRGB's curve; None if they span no colours."""
    matrix = primaries_to_xyz(chromaticities)
    if matrix is None:
        return None
    if gamma is None:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(map(pack_fixed, CURVE))
    else:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + pack_fixed(gamma)
    columns = [b"XYZ \0\0\0\0" + b"".join(map(pack_fixed, column)) for column in (D50, *matrix.T)]
    named = zip((b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    tags = [(b"desc", pack_text("stated")), (b"cprt", pack_text("none")), *named]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    offset, table, data = 132 + 12 * len(tags), b"", b""
    for name, body in tags:
        body += b"\0" * (-len(body) % 4)
        table += name + struct.pack(">II", offset + len(data), len(body))
        data += body
    head = struct.pack(">I", offset + len(data)) + b"\0" * 4 + b"\x04\0\0\0" + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    head += bytes(28) + b"".join(map(pack_fixed, D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def primaries_to_xyz(chromaticities: Chromaticities) -> np.ndarray | None:
    """Compute the matrix from linear RGB to XYZ, adapted to D50 by Bradford's cone responses. None for a singular one."""
    points = np.array(chromaticities, np.float64).reshape(4, 2)
    if (points[:, 1] <= 0).any():
        return None
    white, *primaries = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in points)
    matrix = np.stack(primaries, 1)
    if abs(np.linalg.det(matrix)) < CLOSE:
        return None
    matrix = matrix * np.linalg.solve(matrix, white)
    adapt = np.diag((BRADFORD @ D50) / (BRADFORD @ white))
    return np.linalg.inv(BRADFORD) @ adapt @ BRADFORD @ matrix


def pack_fixed(value: float) -> bytes:
    """Pack a number as ICC's s15Fixed16Number."""
    return struct.pack(">i", round(float(value) * 65536))


def pack_text(words: str) -> bytes:
    """Pack a text as ICC's multiLocalizedUnicodeType, in English."""
    place = struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", 2 * len(words), 28)
    return b"mluc\0\0\0\0" + place + words.encode("utf-16-be")
