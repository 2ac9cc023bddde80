"""The installed fonts, by the scripts they really have."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from tadisr.errors import ConfigError

from .strings import SCRIPTS

PICTOGRAMS = ("symbol", "dingbat", "d050000l", "emoji", "math", "music")  # fonts whose letters are other signs


@lru_cache(maxsize=512)
def open_font(path: str, face: int, pixels: int) -> ImageFont.FreeTypeFont:
    """Open a face of a font file at an em height in pixels."""
    return ImageFont.truetype(path, pixels, index=face, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=4)
def find_fonts(folders: tuple[Path, ...]) -> dict[str, list[tuple[str, int]]]:
    """Find every font that has a script: script -> (file, face). Raises ConfigError if no font has Latin letters."""
    found: dict[str, list[tuple[str, int]]] = {}
    files = sorted(p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in {".ttf", ".ttc", ".otf"})
    for path in files:
        if any(word in path.name.lower() for word in PICTOGRAMS):
            continue
        for script, probe in SCRIPTS.items():
            if _covers(str(path), probe):
                found.setdefault(script, []).append((str(path), 0))
    if "latin" not in found:
        where = ", ".join(map(str, folders))
        raise ConfigError(
            f"No font with Latin letters lies under {where}: install some, for instance fonts-dejavu-core."
        )
    return found


def _covers(path: str, probe: str) -> bool:
    """Tell whether each of the probe's characters has a glyph of its own, not the font's sign for a missing one."""
    try:
        font = open_font(path, 0, 24)
        missing = bytes(font.getmask("\U000e0fff"))  # pyright: ignore[reportArgumentType]
        shapes = {bytes(font.getmask(character)) for character in probe}  # pyright: ignore[reportArgumentType]
    except OSError:
        return False
    return len(shapes) == len(probe) and missing not in shapes and all(any(shape) for shape in shapes)
