"""Conventions where the paper is silent: this project's choices, or the practice of the authors' code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tadisr.file_digest import hash_file
from tadisr.ocr import Reader

# PP-OCRv4's server models, by sha256: file -> what it is. The authors' code reads with these two networks (as PyTorch files
# converted from PaddleOCR's); the digests are those that rapidocr 3.10 publishes for its ONNX and Paddle files of them.
PP_OCR_V4_SERVER = {
    "cfa39a3f298f6d3fc71789834d15da36d11a6c59b489fc16ea4733728012f786": "ch_PP-OCRv4_det_server.onnx",
    "6a2676219be9907c7fc9cf61ebaa843bf2898777def567925b78886fcd90c07a": "ch_PP-OCRv4_rec_server.onnx",
    "48cecf9e30e9261a634126bc5211a2736508ae89d2d6199ef2ede06cdebe678f": "ch_PP-OCRv4_det_server/inference.pdiparams",
    "0319d16cb29b01788757164083da6512a5defb9bccdff5148a929bd43b2cd58f": "ch_PP-OCRv4_rec_server/inference.pdiparams",
}


@dataclass(frozen=True)
class Conventions:
    """One set of choices."""

    name: str
    ssim_padding: Literal["valid", "zeros"]
    lpips_range: Literal["signed", "unit"]
    says: str  # for the report


PAPER = Conventions(
    "paper",
    "valid",
    "signed",
    "SSIM where its window fits wholly; LPIPS on [-1, 1] as documented; the paper says neither.",
)
AUTHORS = Conventions(
    "authors", "zeros", "unit",
    "As the authors' code: SSIM padded with zeros, LPIPS on [0, 1]; OCR-A with PP-OCRv4's server models.",
)  # fmt: skip
CONVENTIONS = {one.name: one for one in (PAPER, AUTHORS)}


def check_reader(conventions: Conventions, readers: Sequence[Reader]) -> str | None:
    """Describe how the first reader differs from the conventions' reader; None if it does not, or none is named."""
    if conventions.name != "authors" or not readers:
        return None
    models = [path for path in readers[0].files if Path(path).suffix in (".onnx", ".pdiparams")]
    if all(hash_file(path) in PP_OCR_V4_SERVER for path in models) and len(models) == 2:
        return None
    return (
        "The authors' conventions read with PP-OCRv4's server detector and recogniser; OCR figures here are of "
        f"{readers[0].label}. Name a folder with ch_PP-OCRv4_det_server.onnx and ch_PP-OCRv4_rec_server.onnx as "
        "--engine rapidocr:FOLDER."
    )
