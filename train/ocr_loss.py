"""A loss on what a text recogniser sees: the distance of PP-OCR's features between lines of SR and of HR.

Lines are found in the true mask, cut from both pictures alike, and brought to the recogniser's height; the recogniser
is frozen, its gradient goes on to the picture. Off in the paper's configs. Judge a model that was trained by it with
another engine than this one: a network learns what pleases its own reader.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tadisr.errors import ConfigError

from .onnx_torch import OnnxGraph, input_of

HEIGHT = 48  # of a line, as PP-OCR takes it
WIDEST = 640  # pixels; a longer line is cut
Window = tuple[int, int, int, int]  # top, bottom, left, right


class OCRLoss(nn.Module):
    """Mean squared distance of the last features before the characters, over at most `lines` lines a picture.

    model: an ONNX file of PP-OCR's recogniser; None: the one that lies in rapidocr's wheel. Raises ConfigError.
    """

    def __init__(self, model: str | None = None, *, lines: int = 4) -> None:
        super().__init__()
        path = Path(model) if model else rapidocr_recognizer()
        self.recognizer = OnnxGraph(path, output=input_of(path, "MatMul", 0)).requires_grad_(False).eval()
        self.lines = lines

    def forward(self, image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], the true mask (B, 1, H, W) -> scalar, 0 where there is no line."""
        distances = []
        for i in range(len(image)):
            for window in find_lines(mask[i, 0], self.lines):
                ours = self.features(cut(image[i : i + 1], window))
                with torch.no_grad():
                    theirs = self.features(cut(target[i : i + 1], window))
                distances.append(F.mse_loss(ours, theirs))
        return torch.stack(distances).mean() if distances else image.sum() * 0

    def features(self, line: Tensor) -> Tensor:
        """(1, 3, 48, w) in [0, 1], RGB -> (1, steps, channels)."""
        with torch.autocast(line.device.type, enabled=False):
            return self.recognizer(line.float().flip(1) * 2 - 1)  # PP-OCR reads BGR in [-1, 1]


def find_lines(mask: Tensor, count: int, *, smallest: int = 8) -> list[Window]:
    """The largest lines of a text mask (H, W): its glyphs grown sideways until they touch, boxes wider than high."""
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
        if height >= smallest and width >= height and len(windows) < count:
            windows.append(window)
    return windows


def cut(image: Tensor, window: Window) -> Tensor:
    """The window of (1, 3, H, W), scaled to the recogniser's height; its width to a multiple of 8, at least 48."""
    top, bottom, left, right = window
    width = round((right - left) * HEIGHT / (bottom - top) / 8) * 8
    line = image[:, :, top:bottom, left:right].float()
    size = (HEIGHT, min(WIDEST, max(HEIGHT, width)))
    return F.interpolate(line, size, mode="bicubic", align_corners=False, antialias=True)


def rapidocr_recognizer() -> Path:
    """PP-OCR's recogniser in rapidocr's wheel. Raises ConfigError where there is none."""
    spec = importlib.util.find_spec("rapidocr")
    folder = Path(spec.origin).parent / "models" if spec and spec.origin else None
    found = sorted(folder.glob("*_rec_*.onnx")) if folder else []
    if not found:
        raise ConfigError(
            "The OCR loss needs PP-OCR's recogniser: pip install rapidocr, name an ONNX file as loss.ocr_model, or set "
            "loss.ocr: 0."
        )
    return found[-1]
