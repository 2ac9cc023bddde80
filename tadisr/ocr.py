"""Reading a picture's text with PP-OCR, through rapidocr: its models lie inside its wheel, nothing is downloaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .errors import TADiSRError
from .image import to_pil


@dataclass(frozen=True)
class Line:
    """One line that was read: its text, how sure the reader is (0 to 1), and its four corners (4, 2) in pixels."""

    text: str
    score: float
    box: np.ndarray[Any, Any]


class Reader:
    """PP-OCR, loaded once. Raises TADiSRError where the extra `ocr` is not installed."""

    def __init__(self) -> None:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise TADiSRError(f"Reading text needs the extra ocr ({error}): pip install 'tadisr[ocr]'.") from error
        self.engine = RapidOCR(params={"Global.log_level": "error"})
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)

    def read(self, image: Tensor) -> list[Line]:
        """(1, 3, H, W) in [0, 1] -> its lines, top to bottom."""
        pixels = np.asarray(to_pil(image).convert("RGB"))[..., ::-1]  # rapidocr takes BGR
        result: Any = self.engine(np.ascontiguousarray(pixels))
        if result.boxes is None:
            return []
        lines = [Line(*line) for line in zip(result.txts, result.scores, result.boxes, strict=True)]
        return sorted(lines, key=lambda line: float(line.box[:, 1].min()))
