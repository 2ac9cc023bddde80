"""A loss on what a text recogniser makes of the lines of SR and of HR: its features, or what it reads.

Lines are found in the true mask, cut from both images alike, and brought to the recogniser's height; the recogniser
is frozen, its gradient goes on to the image. Off in the paper's configs. Judge a model that was trained by it with
another engine than this one: a network learns what pleases its own reader.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import kornia
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tadisr.errors import ConfigError

from .onnx_graph import OnnxGraph, find_input

HEIGHT = 48  # of a line, as PP-OCR takes it
WIDEST = 640  # pixels; a longer line is cut
NEAR = 3  # pixels around a glyph that belong to it
SOFTEST = 1.0  # standard deviation of the most blur that lines are read through, in pixels of the cut line
Window = tuple[int, int, int, int]  # top, bottom, left, right
T = TypeVar("T")


class OCRLoss(nn.Module):
    """A distance of the two readings of at most `lines` lines an image.

    kind: `features`: mean squared distance of the last features before the characters; `reading`: Kullback-Leibler
    divergence of what is read in SR from what is read in HR, over the characters, mean over the columns, in nats;
    `hellinger`: the squared Hellinger distance of the two, in [0, 1], by which a hopeless line counts no more than one.
    models: ONNX files of PP-OCR's recognisers, which take turns; none: the one that lies in rapidocr's wheel.
    Raises ConfigError.
    """

    def __init__(
        self,
        models: tuple[str, ...] = (),
        *,
        kind: Literal["features", "reading", "hellinger"] = "features",
        lines: int = 4,
    ) -> None:
        super().__init__()
        last, self.distance = {
            "features": ("MatMul", F.mse_loss),
            "reading": ("Softmax", kl_divergence),
            "hellinger": ("Softmax", hellinger_distance),
        }[kind]
        files = [Path(model) for model in models] or [find_recognizer()]
        self.recognizers = nn.ModuleList(OnnxGraph(path, output=find_input(path, last, 0)) for path in files)
        self.recognizers.requires_grad_(False).eval()
        self.kind, self.lines = kind, lines

    def forward(self, image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], the true mask (B, 1, H, W) -> scalar, 0 where there is no line.

        Its gradient reaches the glyphs and NEAR pixels around them only, and both images are read through one random
        blur: else the network learns patterns of the ground, and of single pixels, that please its reader and no eye.
        """
        cuts = [(i, window) for i in range(len(image)) for window in pick_random(find_lines(mask[i, 0]), self.lines)]
        if not cuts:
            return image.sum() * 0
        recognizer = pick_random(list(self.recognizers), 1)[0]
        near = F.max_pool2d((mask > 0.5).to(image.dtype), 2 * NEAR + 1, 1, NEAR)
        image = image * near + image.detach() * (1 - near)
        sigma = SOFTEST * torch.rand(()).item()
        ours = read_lines(recognizer, [blur_line(crop_line(image[i : i + 1], window), sigma) for i, window in cuts])
        with torch.no_grad():
            theirs = read_lines(
                recognizer, [blur_line(crop_line(target[i : i + 1], window), sigma) for i, window in cuts]
            )
        return torch.stack([self.distance(a, b) for a, b in zip(ours, theirs, strict=True)]).mean()


def pick_random(items: list[T], count: int) -> list[T]:
    """Pick at most `count` items at random with torch's generator."""
    return items if len(items) <= count else [items[i] for i in torch.randperm(len(items))[:count].tolist()]


def read_lines(recognizer: nn.Module, lines: list[Tensor]) -> list[Tensor]:
    """Run the recognizer on lines (1, 3, 48, w) RGB in [0, 1] -> (steps, channels) each. Not batched: padding would change a
    line's reading.
    """
    with torch.autocast(lines[0].device.type, enabled=False):
        return [recognizer(line.float().flip(1) * 2 - 1)[0] for line in lines]  # PP-OCR reads BGR in [-1, 1]


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Compute KL(target || logits) of (steps, characters), averaged over the steps."""
    return F.kl_div(logits.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="batchmean")


def hellinger_distance(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the squared Hellinger distance, sum((sqrt(p) - sqrt(q))^2) / 2, of (steps, characters), averaged over the steps,
    in [0, 1].
    """
    roots = [(one.log_softmax(-1) / 2).exp() for one in (logits, target)]
    return (roots[0] - roots[1]).square().sum(-1).mean() / 2


def find_lines(mask: Tensor, *, smallest: int = 16) -> list[Window]:
    """Find the lines in a text mask (H, W), largest first: glyphs dilated sideways until they touch, boxes wider than high.

    Lines under `smallest` pixels are left out: text of four LR pixels and less cannot be read.

    Lines below `smallest` pixels are left out: four LR pixels and less cannot be read, only invented.
    """
    text = (mask.detach().float().cpu().numpy() > 0.5).astype(np.uint8)
    if not text.any():
        return []
    strokes = cv2.connectedComponentsWithStats(text)[2][1:]
    reach = max(3, int(np.median(strokes[:, cv2.CC_STAT_HEIGHT])))
    grown = cv2.dilate(text, np.ones((1, 2 * (reach // 2) + 1), np.uint8))
    boxes = cv2.connectedComponentsWithStats(grown)[2][1:]
    windows = []
    for left, top, width, height, _ in sorted(boxes.tolist(), key=lambda box: -box[2] * box[3]):
        margin = max(1, height // 8)
        window = (
            max(0, top - margin), min(text.shape[0], top + height + margin), max(0, left), min(text.shape[1], left + width)
        )  # fmt: skip
        if height >= smallest and width >= height:
            windows.append(window)
    return windows


def crop_line(image: Tensor, window: Window) -> Tensor:
    """Crop a window of (1, 3, H, W) and scale it to the recognizer's height; the width becomes a multiple of 8, at least 48."""
    top, bottom, left, right = window
    width = round((right - left) * HEIGHT / (bottom - top) / 8) * 8
    line = image[:, :, top:bottom, left:right].float()
    size = (HEIGHT, min(WIDEST, max(HEIGHT, width)))
    return F.interpolate(line, size, mode="bicubic", align_corners=False, antialias=True)


def blur_line(line: Tensor, sigma: float) -> Tensor:
    """Blur a line (1, 3, H, W) with a Gaussian."""
    sigma = max(sigma, 0.05)  # which is none
    return kornia.filters.gaussian_blur2d(line, (7, 7), (sigma, sigma))


def find_recognizer() -> Path:
    """Find PP-OCR's recognizer in rapidocr's wheel. Raises ConfigError if there is none."""
    spec = importlib.util.find_spec("rapidocr")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    found = sorted(folder.glob("*_rec_*.onnx")) if folder else []
    if not found:
        raise ConfigError(
            "The OCR loss needs PP-OCR's recogniser: pip install rapidocr, name an ONNX file as loss.ocr_model, or set "
            "loss.ocr: 0."
        )
    return found[-1]
