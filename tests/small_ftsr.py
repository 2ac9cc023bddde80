"""A build of FTSR that takes seconds: rendered lines and a folder of three pictures, on small grounds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from train.synthesis import config as settings

FOLDERS = [Path("/usr/share/fonts") / name for name in ("truetype/liberation", "truetype/wqy", "truetype/dejavu")]
FONTS = [str(folder) for folder in FOLDERS if folder.is_dir()]
SAMPLES = 6
MADE = ("gt", "lr", "sr_bicubic", "mask", "shards")


def line(text: str, size: int = 40, *, ink: str = "black", paper: str = "white") -> np.ndarray:
    font = ImageFont.truetype(next(str(p) for p in Path(FONTS[0]).rglob("*-Regular.ttf")), size)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("RGB", (int(right - left) + 24, int(bottom - top) + 24), paper)
    ImageDraw.Draw(picture).text((12 - left, 12 - top), text, fill=ink, font=font)
    return np.asarray(picture)


def strokes(text: str, size: int = 40) -> np.ndarray:
    return 255 - line(text, size)[..., 0]


def tables(pictures: Path) -> dict[str, Any]:
    """The settings; `pictures` as write_pictures made them."""
    return {
        "out": "unset",
        "samples": SAMPLES,
        "foregrounds": [
            {"source": {"kind": "rendered", "count": 5, "height": [28, 40], "fonts": FONTS}},
            {"source": {"kind": "folder", "path": str(pictures)}, "crops": "cut"},
        ],
        "backgrounds": [
            {"source": {"kind": "procedural", "count": 2, "size": 256}},
            {"source": {"kind": "folder", "path": str(pictures), "name": "grounds"}},
        ],
        "filter": {"long_edge": 8},
        "enhance": {"model": "off"},
        "compose": {"canvas": 128, "count": [1, 3]},
        "write": {"shards": True, "per_shard": 4, "train": 0.5},
        "workers": 0,
    }


def write_pictures(folder: Path) -> Path:
    """A page with two lines, a broken picture, an empty one."""
    page = np.full((200, 420, 3), 235, np.uint8)
    page[20:84, 20 : 20 + 200] = cv2.resize(line("Harbour", 44), (200, 64))
    page[110:174, 60 : 60 + 220] = cv2.resize(line("OPEN 24", 44), (220, 64))
    Image.fromarray(page).save(folder / "a_page.png")
    data = (folder / "a_page.png").read_bytes()
    (folder / "b_broken.png").write_bytes(data[: len(data) // 2])
    Image.fromarray(np.full((160, 200, 3), 90, np.uint8)).save(folder / "c_empty.jpg")
    return folder


def configured(pictures: Path, out: Path, **changes: Any) -> settings.SynthesisConfig:
    return settings.from_dict(tables(pictures) | {"out": str(out)} | changes)


def write_config(folder: Path, pictures: Path, **changes: Any) -> Path:
    path = folder / "build.yaml"
    path.write_text(json.dumps(tables(pictures) | changes))  # JSON is YAML
    return path


def digests(out: Path) -> dict[str, str]:
    """Every file that a build is for, by its bytes."""
    files = [p for name in MADE for p in (out / name).rglob("*")]
    files += [out / n for n in ("index.jsonl", "train.txt", "test.txt", "README.md", "quarantine.jsonl", "report.html")]
    files += [out / "work" / name / "pool.jsonl" for name in ("enhance", "backgrounds")]
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
