"""Draw the templates' thumbnails, before and after beside one another: `python workflows/thumbnails.py [NAME ...]`.

Pieces of the sample through the shipped model, example_workflows/TITLE.jpg. "registry" for NAME draws icon and banner.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "web")]

from pictures import PICTURES, enlarged, part, result  # noqa: E402

from tadisr.images import to_pil  # noqa: E402

TITLES = json.loads((ROOT / "workflows" / "notes" / "titles.json").read_text("utf-8"))
SIZE = (512, 384)
Piece = tuple[float, float, float, float]  # left, top, width, height, in shares of the sample


def split(piece: Piece) -> list[Image.Image]:
    """The same piece twice: enlarged by bicubic, and upscaled."""
    return [to_pil(part(image, *piece)).convert("RGB") for image in (enlarged(), result().image)]


def panels(name: str, *numbers: int) -> Callable[[], list[Image.Image]]:
    """Two of the images that a help page shows."""
    return lambda: [to_pil(PICTURES[name]()[number].clamp(0, 1)).convert("RGB") for number in numbers]


def pile() -> list[Image.Image]:
    """Four pieces of several sizes before, the same after."""
    pieces = [(0.05, 0.1, 0.45, 0.3), (0.4, 0.38, 0.3, 0.3), (0.06, 0.42, 0.3, 0.5), (0.5, 0.1, 0.4, 0.25)]
    sheets = []
    for image in (enlarged(), result().image):
        sheet = Image.new("RGB", (512, 768), "#222222")
        for i, piece in enumerate(pieces):
            tile = ImageOps.fit(to_pil(part(image, *piece)).convert("RGB"), (236, 364))
            sheet.paste(tile, (10 + 256 * (i % 2), 10 + 384 * (i // 2)))
        sheets.append(sheet)
    return sheets


THUMBNAILS: dict[str, Callable[[], list[Image.Image]]] = {
    "upscale_preview": lambda: split((0.06, 0.42, 0.25, 0.38)),
    "folder_batch": pile,
    "big_picture": panels("TADiSRTiling", 0, 1),
    "video": lambda: split((0.42, 0.38, 0.2, 0.3)),
    "mask_editing": panels("TADiSREditMask", 0, 2),
    "check_the_text": panels("TADiSRCompareText", 0, 1),
    "text_over_esrgan": panels("TADiSRTextComposite", 0, 2),
    "after_text_to_image": lambda: split((0.12, 0.12, 0.25, 0.2)),
    "kolors": lambda: split((0.35, 0.12, 0.25, 0.2)),
    "stages": panels("stages", 0, 2),
}


def halves(before: Image.Image, after: Image.Image, size: tuple[int, int] = SIZE) -> Image.Image:
    """The left half from one image, the right half from the other, a white line between them."""
    whole = Image.new("RGB", size)
    half = size[0] // 2
    for left, image in ((0, before), (half, after)):
        whole.paste(ImageOps.fit(image, (half, size[1]), Image.Resampling.LANCZOS), (left, 0))
    ImageDraw.Draw(whole).line((half, 0, half, size[1]), fill="white", width=3)
    return whole


def draw_registry_images() -> None:
    """The icon and the banner of the registry, docs/icon.png and docs/banner.jpg."""
    icon, after = (
        ImageOps.fit(image, (400, 400), Image.Resampling.LANCZOS) for image in split((0.185, 0.05, 0.15, 0.2))
    )
    icon.paste(after.crop((200, 0, 400, 400)), (200, 0))  # one character, its right half upscaled
    ImageDraw.Draw(icon).line((200, 0, 200, 400), fill="white", width=3)
    icon.save(ROOT / "docs" / "icon.png", optimize=True)
    halves(*split((0.06, 0.42, 0.3, 0.26)), (1680, 720)).save(ROOT / "docs" / "banner.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["registry", *THUMBNAILS]:
        if name == "registry":
            draw_registry_images()
            continue
        target = ROOT / "example_workflows" / f"{TITLES[name]}.jpg"
        halves(*THUMBNAILS[name]()).save(target, quality=88, optimize=True)
        print(name, flush=True)
