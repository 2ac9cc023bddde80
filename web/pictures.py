"""The pictures of the help pages, by the shipped model from the shipped sample: `python web/pictures.py [NAME ...]`.

web/docs/pictures/NODE.jpg, for the nodes that make something to look at. Needs an OCR engine (the extra `ocr`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tadisr  # noqa: E402
from tadisr import ocr  # noqa: E402
from tadisr.composite import composite_images, edit_mask, shape_mask  # noqa: E402
from tadisr.images import read_image, resize_image, to_pil  # noqa: E402
from tadisr.inference import staged  # noqa: E402
from tadisr.inference.run_tile import coarse_text  # noqa: E402
from tadisr.inference.tiling import Tiling  # noqa: E402
from tadisr.visualization import attention_heatmap, overlays  # noqa: E402

TARGET = ROOT / "web" / "docs" / "pictures"
HEIGHT, GAP = 300, 6
PICTURES: dict[str, Callable[[], list[Tensor]]] = {}


def picture(node: str) -> Callable[[Callable[[], list[Tensor]]], None]:
    def keep(panels: Callable[[], list[Tensor]]) -> None:
        PICTURES[node] = panels

    return keep


@cache
def model() -> tadisr.TADiSR:
    return tadisr.load()


@cache
def sample() -> Tensor:
    return read_image(ROOT / "sample" / "sample.png")[:, :3]


@cache
def result() -> tadisr.Upscaled:
    return tadisr.upscale(model(), sample())


@cache
def encoded() -> tuple[Tensor, staged.Source]:
    return staged.encode(model(), sample())


@cache
def denoised() -> tuple[Tensor, staged.Attention]:
    return staged.denoise(model(), *encoded())


def part(image: Tensor, left: float, top: float, width: float, height: float) -> Tensor:
    """A piece of a picture, in shares of its sides."""
    h, w = image.shape[-2:]
    return image[..., round(top * h) : round((top + height) * h), round(left * w) : round((left + width) * w)]


def sign(image: Tensor) -> Tensor:
    return part(image, 0.06, 0.42, 0.42, 0.42)


def enlarged() -> Tensor:
    return resize_image(sample(), (result().image.shape[2], result().image.shape[3])).clamp(0, 1)


def false_color(latent: Tensor) -> Tensor:
    """The three strongest directions of a latent (1, c, h, w) as red, green and blue."""
    flat = latent[0].flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    directions = torch.linalg.svd(flat, full_matrices=False).U[:, :3]
    colors = (directions.T @ flat).unflatten(1, latent.shape[-2:])
    scale = colors.abs().flatten(1).quantile(0.99, dim=1)[:, None, None]
    return ((colors / scale + 1) / 2).clamp(0, 1)[None]


@picture("TADiSRLoader")
def _() -> list[Tensor]:
    return [part(enlarged(), 0.05, 0.1, 0.55, 0.35), part(result().image, 0.05, 0.1, 0.55, 0.35)]


@picture("TADiSRUpscale")
def _() -> list[Tensor]:
    return [sign(enlarged()), sign(result().image), sign(result().mask)]


@picture("TADiSRTiling")
def _() -> list[Tensor]:
    tiling = Tiling(tile=512, overlap=128, text_aware=True)
    plain = Tiling(tile=512, overlap=128, text_aware=False)
    text = coarse_text(model(), sample(), tiling, model().device)
    return [overlays.draw_tiles(sample(), plain), overlays.draw_tiles(sample(), tiling, text[0, 0])]


@picture("TADiSREncode")
def _() -> list[Tensor]:
    return [sample(), false_color(encoded()[0])]


@picture("TADiSRDenoise")
def _() -> list[Tensor]:
    return [false_color(encoded()[0]), false_color(denoised()[0]), attention_heatmap.heat_map(denoised()[1])]


@picture("TADiSRTextAttention")
def _() -> list[Tensor]:
    heat = attention_heatmap.heat_map(denoised()[1])
    return [heat, attention_heatmap.overlay_heat(heat, sample(), "turbo")]


@picture("TADiSRJointDecode")
def _() -> list[Tensor]:
    """The yellow label's text wiped out of the mask, and what becomes of the picture."""
    latent, attention = denoised()
    plain = staged.decode(model(), latent, attention)
    guide = plain.mask.clone()
    part(guide, 0.42, 0.4, 0.3, 0.3).zero_()
    steered = staged.decode(model(), latent, attention, guide=guide)
    return [part(x, 0.42, 0.36, 0.3, 0.34) for x in (plain.mask, guide, steered.mask, steered.image)]


@picture("TADiSREditMask")
def _() -> list[Tensor]:
    """The mortar above and beside a label wiped out: the model's mask, what was painted, the edited mask."""
    mask = result().mask
    painted = torch.zeros_like(mask)
    part(painted, 0.42, 0.36, 0.3, 0.13).fill_(1)
    part(painted, 0.42, 0.36, 0.075, 0.34).fill_(1)
    return [part(x, 0.42, 0.36, 0.3, 0.34) for x in (mask, painted, edit_mask(mask, painted, "subtract"))]


@picture("stages")
def _() -> list[Tensor]:
    """For the README."""
    return [
        sample(),
        false_color(encoded()[0]),
        attention_heatmap.overlay_heat(attention_heatmap.heat_map(denoised()[1]), sample(), "turbo"),
    ]


@picture("TADiSRTextComposite")
def _() -> list[Tensor]:
    mask = shape_mask(result().mask, grow=8, feather=4, threshold=0.5)
    return [sign(x) for x in (enlarged(), mask, composite_images(result().image, enlarged(), mask))]


@picture("TADiSRReadText")
def _() -> list[Tensor]:
    boxes = [line.box for line in ocr.open_reader("rapidocr").read(result().image) if line.score >= 0.5]
    size = (result().image.shape[2], result().image.shape[3])
    return [overlays.draw_boxes(result().image, boxes, [overlays.GREEN] * len(boxes)), overlays.box_mask(boxes, size)]


@picture("TADiSRCompareText")
def _() -> list[Tensor]:
    pairs = ocr.compare_text(enlarged(), result().image, ocr.open_reader("rapidocr"))
    colors = [overlays.RED if pair.ratio < 1 else overlays.GREEN for pair in pairs]
    return [enlarged(), overlays.draw_boxes(result().image, [pair.before.box for pair in pairs], colors)]


def sheet(panels: list[Tensor]) -> Image.Image:
    """Side by side, all of one height."""
    drawn = [to_pil(panel.clamp(0, 1)).convert("RGB") for panel in panels]
    drawn = [x.resize((round(x.width * HEIGHT / x.height), HEIGHT), Image.Resampling.LANCZOS) for x in drawn]
    whole = Image.new("RGB", (sum(x.width + GAP for x in drawn) - GAP, HEIGHT), "white")
    left = 0
    for x in drawn:
        whole.paste(x, (left, 0))
        left += x.width + GAP
    return whole


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or PICTURES:
        sheet(PICTURES[name]()).save(TARGET / f"{name}.jpg", quality=86, optimize=True)
        print(name, flush=True)
