"""A pool of HR pages on disk, drawn once: `python -m train.data.pool render|cut|pdf OUT ...`.

OUT/0000017.png is page 17: RGB, or RGBA with the text mask as its alpha channel where the text was rendered. Page i
depends on nothing but the arguments and i, so a pool that was deleted is drawn again by the same command, and a command
that was stopped resumes there. Training cuts its crops from the pages and degrades them (`PoolCrops`).

    python -m train.data.pool render pool/rendered --pages 20000 --text-scale 0.6 1.8 --words /usr/share/dict/american-english
    python -m train.data.pool pdf pool/print --pages 4000 manuals/           # PDFs by pdftoppm (poppler-utils)
    python -m train.data.pool cut pool/photos --pages 2000 receipts/         # images, at their own size
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from tadisr.config import SCALE
from tadisr.errors import ConfigError, ImageError, TADiSRError
from tadisr.images import from_pixels, resize_image

from .degradation.recipes import degrade_mixture
from .text_rendering.scenes import RenderedText

Page = NDArray[Any]  # uint8 (H, W, 3), or (H, W, 4) with the mask

SIDE = 512  # of a page, in pixels
FLAT = 4.0  # standard deviation in 1/255 below which a cut is empty paper
DPI = (90, 260)  # resolutions that PDF pages are drawn at
IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


def write_page(folder: Path, index: int, page: Page) -> None:
    """Write page `index` of a pool, whole or not at all."""
    target = folder / f"{index:07d}.png"
    part = target.with_suffix(".part")
    Image.fromarray(page).save(part, "PNG", compress_level=3)
    part.replace(target)


def list_missing_pages(folder: Path, pages: int) -> list[int]:
    """List the indices below `pages` that the pool does not have yet."""
    return [index for index in range(pages) if not (folder / f"{index:07d}.png").exists()]


# ---- crops for training ---------------------------------------------------------------------------------------------


class PoolCrops:
    """Random crops of a pool's pages, turned and recoloured, degraded on the fly. Raises ConfigError for an empty pool.

    Sample i depends on nothing but (seed, i) and the pages that were there when the pool was opened.
    """

    def __init__(self, folder: Path, *, crop: int, seed: int, degradation: dict[str, float]) -> None:
        self.files = sorted(folder.glob("*.png"))
        if not self.files:
            raise ConfigError(f"{folder} holds no pages: draw them with python -m train.data.pool.")
        if crop % SCALE or crop > SIDE:
            raise ConfigError(f"crop is {crop}, expected a multiple of {SCALE} of at most {SIDE}, a page's side.")
        self.crop, self.seed, self.degradation = crop, seed, degradation

    def draw_sample(self, index: int) -> dict[str, Tensor]:
        """Draw upscaled, hr (3, c, c), mask (1, c, c) and known (1,), 0 for a page without a mask; float32 in [0, 1]."""
        rng = np.random.default_rng([self.seed, 4, index])
        page = read_page(self.files[int(rng.integers(len(self.files)))])
        top, left = (int(rng.integers(extent - self.crop + 1)) for extent in page.shape[:2])
        cut = page[top : top + self.crop, left : left + self.crop].astype(np.float32) / 255
        if rng.random() < 0.15:
            cut = np.rot90(cut, int(rng.integers(1, 4)))
        hr, mask = recolor_image(cut[..., :3], rng), cut[..., 3:]
        lr = degrade_mixture(np.ascontiguousarray(hr), self.degradation, rng)
        known = float(mask.shape[2])
        return {
            "upscaled": resize_image(from_pixels(lr), (self.crop, self.crop))[0],
            "hr": from_pixels(hr)[0],
            "mask": from_pixels(mask)[0] if known else torch.zeros(1, self.crop, self.crop),
            "known": torch.tensor([known]),
        }


def read_page(file: Path) -> Page:
    """Read a page as RGB or RGBA. Raises ImageError for a damaged one."""
    page = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if page is None or page.ndim != 3 or min(page.shape[:2]) < SIDE:
        raise ImageError(f"{file} is no page of {SIDE}x{SIDE} pixels: delete it and draw the pool again.")
    return cv2.cvtColor(page, cv2.COLOR_BGRA2RGBA if page.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def recolor_image(image: NDArray[Any], rng: Generator) -> NDArray[Any]:
    """Invert a fifth of the images, permute the colour channels of another fifth. (H, W, 3) in [0, 1]."""
    if rng.random() < 0.2:
        image = 1 - image
    return image[..., rng.permutation(3)] if rng.random() < 0.2 else image


# ---- rendered text --------------------------------------------------------------------------------------------------

_stream: RenderedText | None = None


def _open_stream(arguments: argparse.Namespace) -> None:
    global _stream
    cv2.setNumThreads(1)
    _stream = RenderedText(
        crop=SIDE,
        seed=arguments.seed,
        backgrounds=arguments.backgrounds,
        fonts=arguments.fonts,
        camera=arguments.camera,
        text_scale=tuple(arguments.text_scale),
        walls=arguments.walls,
        words=arguments.words,
    )


def _render(task: tuple[Path, int]) -> None:
    folder, index = task
    assert _stream is not None
    hr, mask = _stream.draw_scene(np.random.default_rng([_stream.seed, index]))
    page = np.dstack([hr, mask[..., None]])
    write_page(folder, index, (page * 255).round().astype(np.uint8))


def render_pages(arguments: argparse.Namespace) -> None:
    """Draw the missing pages of rendered text, in `arguments.workers` processes."""
    tasks = [(arguments.out, index) for index in list_missing_pages(arguments.out, arguments.pages)]
    with ProcessPoolExecutor(arguments.workers, get_context("spawn"), _open_stream, (arguments,)) as executor:
        for _ in tqdm(executor.map(_render, tasks, chunksize=8), total=len(tasks), mininterval=10):
            pass


# ---- real print -----------------------------------------------------------------------------------------------------


def cut_pages(arguments: argparse.Namespace) -> None:
    """Cut the missing pages from images, or from pages of PDFs, one random place after the other."""
    ending = {".pdf"} if arguments.command == "pdf" else IMAGES
    files = sorted(p for source in arguments.sources for p in source.rglob("*") if p.suffix.lower() in ending)
    if not files:
        raise ConfigError(f"No {'PDF' if arguments.command == 'pdf' else 'image'} lies under {arguments.sources[0]}.")
    for index in tqdm(list_missing_pages(arguments.out, arguments.pages), mininterval=10):
        rng = np.random.default_rng([arguments.seed, index])
        write_page(arguments.out, index, next(_cuts(files, rng, pdf=arguments.command == "pdf")))


def _cuts(files: list[Path], rng: Generator, *, pdf: bool) -> Iterator[Page]:
    """Yield cuts of random files that are not empty paper, without end."""
    while True:
        file = files[int(rng.integers(len(files)))]
        try:
            image = draw_pdf_page(file, rng) if pdf else read_photo(file, rng)
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        if min(image.shape[:2]) < SIDE:
            continue
        for _ in range(4):
            top, left = (int(rng.integers(extent - SIDE + 1)) for extent in image.shape[:2])
            cut = image[top : top + SIDE, left : left + SIDE]
            if cut.std() > FLAT and cut.reshape(-1, 3).std(0).max() > FLAT * 3:
                yield np.ascontiguousarray(cut)
                break


def draw_pdf_page(file: Path, rng: Generator) -> Page:
    """Draw a random page of a PDF at 90 to 260 dpi by pdftoppm. Raises subprocess.SubprocessError, OSError, ValueError."""
    told = subprocess.run(
        ["pdfinfo", str(file)], capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True
    ).stdout
    pages = int(next(line.split()[1] for line in told.splitlines() if line.startswith("Pages:")))
    page, dpi = int(rng.integers(pages)) + 1, int(rng.integers(*DPI))
    command = ["pdftoppm", "-f", str(page), "-l", str(page), "-r", str(dpi), "-png", str(file)]
    drawn = subprocess.run(command, capture_output=True, timeout=60, check=True).stdout
    return np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB"))


def read_photo(file: Path, rng: Generator) -> Page:
    """Read an image, reduced by up to 3 so that its own blur and JPEG blocks shrink. Raises OSError."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    most = min(3.0, min(image.size) / SIDE)
    factor = rng.uniform(1, most) if most > 1 else 1.0
    size = (round(image.width / factor), round(image.height / factor))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.data.pool", description="Draw a pool of training pages.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (
        ("render", "text rendered on photographs, with its mask"),
        ("pdf", "pages of PDFs"),
        ("cut", "photographs and scans"),
    ):
        command = commands.add_parser(name, help=told)
        command.add_argument("out", type=Path, help="the pool's folder")
        command.add_argument("--pages", type=int, required=True)
        command.add_argument("--seed", type=int, default=1)
        if name != "render":
            command.add_argument("sources", type=Path, nargs="+", help="folders, searched deeply")
            continue
        command.add_argument("--backgrounds", nargs="*", type=Path, default=[], help="folders of photographs")
        command.add_argument("--fonts", nargs="*", type=Path, default=[Path("/usr/share/fonts")])
        command.add_argument("--words", nargs="*", type=Path, default=[], help="text files that words are taken from")
        command.add_argument("--text-scale", nargs=2, type=float, default=[0.6, 1.8], metavar=("LOW", "HIGH"))
        command.add_argument("--camera", type=float, default=0.6, help="share that looks photographed")
        command.add_argument("--walls", type=float, default=0.1, help="share of the grounds that are masonry")
        command.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        (render_pages if arguments.command == "render" else cut_pages)(arguments)
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
