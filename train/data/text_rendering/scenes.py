"""An endless, seeded stream of (LR, HR, mask) with no data set at all: text rendered onto photographs.

Sample i depends on nothing but (seed, i), so a stream can be cut anywhere and taken up again. The mask is the
glyphs' own coverage, warped together with them: exact by construction.

    python -m train.data.rendered sheet.png --n 32 --backgrounds /usr/share/wallpapers    # look at it
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

from tadisr.config import SCALE
from tadisr.errors import ConfigError
from tadisr.images import from_pixels, to_pixels

from ..degradation.recipes import blur_image, compress_jpeg, degrade_mixture, make_gaussian_kernel
from .backgrounds import Array, draw_background, draw_gradient, load_photos
from .fonts import find_fonts, open_font
from .strings import Lexicon, draw_line, draw_paragraph

Color = NDArray[np.float32]

MARGIN = 1.5  # the canvas is this much larger than the crop, so that turned text reaches its corners


class RenderedText(Dataset[dict[str, Tensor]]):
    """`lr` (3, c/4, c/4), `hr` (3, c, c), `mask` (1, c, c), float32 in [0, 1], for every index
    from 0 on, without end.

    backgrounds: folders of photographs, searched deeply; none: procedural grounds. degradation: weights of
    `degradation.PRESETS`. camera: share of HR images that look photographed, soft and compressed; rendered text
    alone is sharper than any photograph, and a model of it over-commits on real ones. text_scale: how much larger
    than `Page.em` says; two numbers: between them, one for each page. walls: share of grounds that are masonry.
    words: text files for `Lexicon.read`. Raises ConfigError where no font is found.
    """

    def __init__(
        self,
        *,
        crop: int = 128,
        seed: int = 0,
        backgrounds: list[Path] | None = None,
        fonts: list[Path] | None = None,
        degradation: dict[str, float] | None = None,
        camera: float = 0.0,
        text_scale: float | tuple[float, float] = 1.0,
        walls: float = 0.1,
        words: list[Path] | None = None,
    ) -> None:
        if crop % 16:
            raise ConfigError(f"crop is {crop}, expected a multiple of 16.")
        self.crop, self.seed = crop, seed
        self.degradation = degradation or {"ftsr": 1.0}
        self.camera, self.walls = camera, walls
        self.text_scale = text_scale if isinstance(text_scale, tuple) else (text_scale, text_scale)
        self.lexicon = Lexicon.read(tuple(words or []))
        self.photographs = load_photos(backgrounds or [])
        self.fonts = find_fonts(tuple(fonts or [Path("/usr/share/fonts")]))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.draw_sample(index)

    def draw_sample(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        hr, mask = self.draw_scene(rng)
        lr = degrade_mixture(hr, self.degradation, rng)
        return {"lr": from_pixels(lr)[0], "hr": from_pixels(hr)[0], "mask": from_pixels(mask[..., None])[0]}

    def draw_scene(self, rng: Generator) -> tuple[Array, Array]:
        """Draw one HR image (c, c, 3), quantized to 8 bits, and its mask (c, c)."""
        size = round(self.crop * MARGIN / 16) * 16
        kinds = list(SCENES)
        kind = kinds[int(rng.choice(len(kinds), p=[share for _, share in SCENES.values()]))]
        page = Page(size, self, rng)
        SCENES[kind][0](page, rng)
        picture, mask = page.finish(self.crop, rng)
        if self.camera and rng.random() < self.camera:
            picture = simulate_camera(picture, rng)
        return (np.clip(picture, 0, 1) * 255).round().astype(np.float32) / 255, mask


def simulate_camera(picture: Array, rng: Generator) -> Array:
    """Apply lens blur, sensor noise and JPEG to an HR image (H, W, 3)."""
    sigma = rng.uniform(0.3, 1.3)
    soft = blur_image(np.ascontiguousarray(picture), make_gaussian_kernel(9, sigma, sigma, 0.0))
    if rng.random() < 0.5:
        soft = soft + rng.normal(0, rng.uniform(0, 3) / 255, soft.shape).astype(np.float32)
    return compress_jpeg(soft, rng.uniform(70, 98))


# ---- what a page is made of -----------------------------------------------------------------------------------------


class Page:
    """A canvas that text is laid on: the image (S, S, 3) and the mask (S, S)."""

    def __init__(self, size: int, stream: RenderedText, rng: Generator) -> None:
        self.size, self.stream, self.rng = size, stream, rng
        self.picture = draw_background(size, stream.photographs, rng, walls=stream.walls)
        self.mask = np.zeros((size, size), np.float32)
        self.turned = False
        low, high = stream.text_scale
        self.text_scale = low if low == high else low * (high / low) ** float(rng.random())

    def draw_em(self, median: float = 34, spread: float = 0.45, *, most: float = 120) -> float:
        """Draw an em height: mostly 20 to 64 HR pixels, from barely legible up to the whole crop."""
        return float(np.clip(math.exp(self.rng.normal(math.log(median), spread)), 12, most)) * self.text_scale

    def draw_font(self, script: str, pixels: float) -> ImageFont.FreeTypeFont:
        """Draw a random font that has the script. pixels: the em height."""
        paths = self.stream.fonts[script]
        path, face = paths[int(self.rng.integers(len(paths)))]
        return open_font(path, face, max(6, round(pixels)))

    def draw_script(self) -> str:
        """Draw a script: mostly Latin and Chinese."""
        others = [s for s in self.stream.fonts if s not in ("latin", "chinese")]
        if others and self.rng.random() < 0.06:
            return others[int(self.rng.integers(len(others)))]
        return "chinese" if "chinese" in self.stream.fonts and self.rng.random() < 0.5 else "latin"

    def panel(self, box: tuple[int, int, int, int], color: Color, opacity: float) -> None:
        """Paint a rectangle."""
        left, top, right, bottom = box
        region = self.picture[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        region += (color - region) * opacity

    def paint_ink(self, coverage: Array, color: Color, opacity: float, *, is_text: bool = True) -> None:
        """Paint a colour through a coverage (S, S) in [0, 1]; is_text: into the mask too."""
        self.picture += (color - self.picture) * (coverage * opacity)[..., None]
        if is_text:
            self.mask = np.maximum(self.mask, coverage)

    def finish(self, crop: int, rng: Generator) -> tuple[Array, Array]:
        """Cut the crop, rotated and in perspective for some."""
        if not self.turned and rng.random() < 0.25:
            return self._warped(crop, rng)
        top, left = rng.integers(0, self.size - crop + 1, 2)
        window = np.s_[top : top + crop, left : left + crop]
        return self.picture[window], self.mask[window]

    def _warped(self, crop: int, rng: Generator) -> tuple[Array, Array]:
        angle = rng.normal(0, 0.12) if rng.random() < 0.8 else rng.uniform(-0.8, 0.8)
        half = crop / 2 / (1 + 0.25 * min(abs(angle) * 4, 1))
        corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
        corners *= 1 + rng.uniform(-0.12, 0.12, (4, 2)) * (rng.random() < 0.6)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        source = (corners @ turn.T + self.size / 2).astype(np.float32)
        target = np.array([[0, 0], [crop, 0], [crop, crop], [0, crop]], np.float32)
        matrix = cv2.getPerspectiveTransform(source, target)
        both = np.dstack([self.picture, self.mask])
        warped = cv2.warpPerspective(
            both, matrix, (crop, crop), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
        )
        return warped[..., :3], np.clip(warped[..., 3], 0, 1)


def draw_coverage(size: int, draw: Callable[[ImageDraw.ImageDraw], None]) -> Array:
    """Draw white on black by `draw`, (S, S) in [0, 1]."""
    canvas = Image.new("L", (size, size))
    draw(ImageDraw.Draw(canvas))
    return np.asarray(canvas, np.float32) / 255


def draw_ink_color(ground: Color, rng: Generator) -> Color:
    """Draw a text colour for a background colour: mostly strong contrast, sometimes little."""
    luma = float(ground @ np.array([0.299, 0.587, 0.114], np.float32))
    contrast = rng.uniform(0.5, 1.0) if rng.random() < 0.75 else rng.uniform(0.15, 0.5)
    target = luma - contrast if (luma > 0.5) == (rng.random() < 0.92) else luma + contrast
    target = float(np.clip(target, 0, 1))
    if abs(target - luma) < 0.15:
        target = float(np.clip(luma + (0.5 if luma < 0.5 else -0.5), 0, 1))
    tint = rng.uniform(-1, 1, 3) * (0.02 if rng.random() < 0.5 else 0.35)
    return np.clip(target + tint * min(target + 0.1, 1.1 - target), 0, 1).astype(np.float32)


# ---- the scenes -----------------------------------------------------------------------------------------------------


def draw_document(page: Page, rng: Generator) -> None:
    """Draw dense lines of one size on paper: books, receipts, lists, screens."""
    ground = draw_paper(page, rng)
    script, pixels = page.draw_script(), page.draw_em(25, 0.35, most=48)
    font, leading = page.draw_font(script, pixels), rng.uniform(1.15, 1.9)
    indent = rng.uniform(-2 * pixels, 2 * pixels)
    numbers, lexicon = rng.random() < 0.25, page.stream.lexicon

    def draw(d: ImageDraw.ImageDraw) -> None:
        y = rng.uniform(-pixels, pixels)
        while y < page.size:
            text = (
                draw_line(script, rng, lexicon, numbers=True)
                if numbers
                else draw_paragraph(script, rng, round(page.size / pixels * 2.5), lexicon)
            )
            d.text(
                (indent + (rng.uniform(0, page.size / 2) if rng.random() < 0.1 else 0), y), text, font=font, fill=255
            )
            y += pixels * leading * (1 if rng.random() < 0.93 else 2)

    page.paint_ink(draw_coverage(page.size, draw), draw_ink_color(ground, rng), rng.uniform(0.75, 1))
    if rng.random() < 0.15:
        draw_rules(page, draw_ink_color(ground, rng), rng)


def draw_paper(page: Page, rng: Generator) -> Color:
    """Fill the page with paper, or a dark screen, lightly shaded; return its colour."""
    base = rng.uniform(0.75, 1.0) if rng.random() < 0.8 else rng.uniform(0, 0.3)
    ground = np.clip(base + rng.normal(0, 0.03, 3), 0, 1).astype(np.float32)
    page.panel((0, 0, page.size, page.size), ground, 1.0 if rng.random() < 0.7 else rng.uniform(0.85, 1))
    shade = draw_gradient(page.size, rng) * rng.uniform(0, 0.25)
    page.picture *= (1 - shade)[..., None]
    if rng.random() < 0.4:
        page.picture += rng.normal(0, rng.uniform(0, 0.02), (page.size, page.size, 1)).astype(np.float32)
    return page.picture.mean((0, 1))


def draw_rules(page: Page, color: Color, rng: Generator) -> None:
    """Draw the lines of a table, which are not text."""

    def draw(d: ImageDraw.ImageDraw) -> None:
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(page.size))
            ends = ((0, at), (page.size, at)) if rng.random() < 0.5 else ((at, 0), (at, page.size))
            d.line(ends, fill=255, width=int(rng.integers(1, 3)))

    page.paint_ink(draw_coverage(page.size, draw), color, rng.uniform(0.4, 1), is_text=False)


def draw_signs(page: Page, rng: Generator) -> None:
    """Draw lines of different sizes on a photo, some on panels, some outlined or shadowed."""
    y = rng.uniform(0, page.size * 0.25)
    while y < page.size:
        script, pixels = page.draw_script(), page.draw_em()
        font, text = page.draw_font(script, pixels), draw_line(script, rng, page.stream.lexicon)
        x = rng.uniform(-pixels, page.size * 0.4)
        left, top, right, bottom = (round(v) for v in font.getbbox(text))
        box = (round(x) + left, round(y) + top, round(x) + right, round(y) + bottom)
        ground = mean_color(page, box)
        if rng.random() < 0.45:
            pad = int(pixels * rng.uniform(0.1, 0.5)) + 1
            ground = rng.uniform(0, 1, 3).astype(np.float32)
            page.panel((box[0] - pad, box[1] - pad, box[2] + pad, box[3] + pad), ground, rng.uniform(0.7, 1))
        color = draw_ink_color(ground, rng)
        decorate_text(page, (round(x), round(y)), text, font, color, pixels, rng)
        glyphs = draw_coverage(
            page.size, lambda d, at=(round(x), round(y)), t=text, f=font: d.text(at, t, font=f, fill=255)
        )
        page.paint_ink(glyphs, color, rng.uniform(0.8, 1))
        y += (bottom - top) + pixels * rng.uniform(0.3, 1.5)


def decorate_text(
    page: Page,
    at: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont,
    color: Color,
    pixels: float,
    rng: Generator,
) -> None:
    """Draw an outline or a shadow under the text, as subtitles and signs have; not part of the mask."""
    choice = rng.random()
    if choice > 0.3:
        return
    contrast = (1 - color).astype(np.float32)
    width = max(1, round(pixels * rng.uniform(0.04, 0.1)))
    offset = (0, 0) if choice < 0.15 else (width, width)
    under = draw_coverage(
        page.size,
        lambda d: d.text(
            (at[0] + offset[0], at[1] + offset[1]), text, font=font, fill=255, stroke_width=width * (choice < 0.15)
        ),
    )
    page.paint_ink(under, contrast, rng.uniform(0.5, 1), is_text=False)


def mean_color(page: Page, box: tuple[int, int, int, int]) -> Color:
    """Return the mean colour of a box of the page."""
    left, top, right, bottom = (int(np.clip(v, 0, page.size)) for v in box)
    region = page.picture[top:bottom, left:right]
    return region.mean((0, 1)) if region.size else page.picture.mean((0, 1))


def draw_columns(page: Page, rng: Generator) -> None:
    """Draw text in columns, top to bottom, right to left."""
    ground = draw_paper(page, rng) if rng.random() < 0.5 else page.picture.mean((0, 1))
    script = "chinese" if "chinese" in page.stream.fonts else page.draw_script()
    pixels = page.draw_em()
    font, color = page.draw_font(script, pixels), draw_ink_color(ground, rng)

    def draw(d: ImageDraw.ImageDraw) -> None:
        x = page.size - pixels * rng.uniform(0.5, 2)
        while x > -pixels:
            y = rng.uniform(-pixels, pixels * 2)
            for character in draw_paragraph(script, rng, round(page.size / pixels) + 2, page.stream.lexicon):
                d.text((x, y), character, font=font, fill=255)
                y += pixels * 1.08
            x -= pixels * rng.uniform(1.2, 2.2)

    page.paint_ink(draw_coverage(page.size, draw), color, rng.uniform(0.8, 1))


def draw_curved_line(page: Page, rng: Generator) -> None:
    """Draw a line bent along an arc, as on round labels and badges."""
    script, pixels = page.draw_script(), page.draw_em()
    font, color = page.draw_font(script, pixels), draw_ink_color(page.picture.mean((0, 1)), rng)
    text = draw_paragraph(script, rng, 30, page.stream.lexicon)
    straight = draw_coverage(page.size, lambda d: d.text((0, page.size / 2 - pixels / 2), text, font=font, fill=255))
    bend, phase = rng.uniform(0.1, 0.35) * page.size, rng.uniform(0, math.pi)
    x, y = np.meshgrid(np.arange(page.size, dtype=np.float32), np.arange(page.size, dtype=np.float32))
    shift = (bend * np.sin(x / page.size * math.pi + phase)).astype(np.float32)
    page.paint_ink(np.clip(cv2.remap(straight, x, y + shift, cv2.INTER_CUBIC), 0, 1), color, rng.uniform(0.85, 1))
    page.turned = True


def draw_no_text(page: Page, rng: Generator) -> None:
    """Draw an image without text."""
    page.turned = rng.random() < 0.8


SCENES: dict[str, tuple[Callable[[Page, Generator], None], float]] = {
    "document": (draw_document, 0.34),
    "signs": (draw_signs, 0.34),
    "columns": (draw_columns, 0.09),
    "curved": (draw_curved_line, 0.05),
    "plain": (draw_no_text, 0.18),
}


# ---- a sheet to look at -----------------------------------------------------------------------------------------------


def write_sheet(stream: RenderedText, count: int, path: str | Path) -> None:
    """Write a sheet of the first samples: upscaled LR, HR and mask side by side."""
    rows = []
    for index in range(count):
        sample = stream.draw_sample(index)
        lr, hr, mask = (to_pixels(sample[key]) for key in ("lr", "hr", "mask"))
        up = cv2.resize(lr, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
        rows.append(np.hstack([up, hr, mask.repeat(3, 2)]))
    across = 3 if count % 3 == 0 else 1
    grid = [np.hstack(rows[i : i + across]) for i in range(0, count, across)]
    Image.fromarray(np.vstack(grid)).save(path)


def write_pairs(stream: RenderedText, count: int, folder: Path) -> None:
    """Write the first samples as pairs, hr/ lr/ mask/ as train/data/pairs.py reads them."""
    for name in ("hr", "lr", "mask"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        for name, tensor in stream.draw_sample(index).items():
            pixels = to_pixels(tensor)
            Image.fromarray(pixels if name != "mask" else pixels[..., 0]).save(folder / name / f"{index:04d}.png")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m train.data.rendered", description="Draw a sheet of training samples to look at, or write pairs."
    )
    parser.add_argument("out", type=Path, help="the sheet, a PNG; a folder: pairs in hr/ lr/ mask/")
    parser.add_argument("--n", type=int, default=24)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backgrounds", nargs="*", type=Path, default=[])
    parser.add_argument("--fonts", nargs="*", type=Path, default=[Path("/usr/share/fonts")])
    parser.add_argument("--degradation", default="light", help="a preset's name")
    parser.add_argument("--camera", type=float, default=0.0, help="share of HR images that look photographed")
    parser.add_argument("--text-scale", type=float, default=1.0, help="how much larger the text is")
    a = parser.parse_args(argv)
    stream = RenderedText(
        crop=a.crop,
        seed=a.seed,
        backgrounds=a.backgrounds,
        fonts=a.fonts,
        degradation={a.degradation: 1.0},
        camera=a.camera,
        text_scale=a.text_scale,
    )
    write = write_sheet if a.out.suffix.lower() == ".png" else write_pairs
    write(stream, a.n, a.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
