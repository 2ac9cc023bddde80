"""Log in one line what is missing when ComfyUI starts."""

from __future__ import annotations

import importlib.util
import logging

import folder_paths

from . import folders

log = logging.getLogger("tadisr")

OCR = {"rapidocr": "rapidocr onnxruntime rapidfuzz", "paddleocr": "paddleocr onnxruntime rapidfuzz"}


def find_missing() -> list[str]:
    """List the optional parts that are not there: models beside the built-in one, an OCR engine."""
    missing = []
    if not folder_paths.get_filename_list(folders.FOLDER):
        missing.append("models/tadisr is empty, the built-in compact model is used")
    if not any(importlib.util.find_spec(name) for name in OCR):
        missing.append(f"Read Text, Compare Text and text_guard need an OCR engine (pip install {OCR['rapidocr']})")
    return missing


def log_missing() -> None:
    """Log what is missing in one line; nothing where nothing is."""
    missing = find_missing()
    if missing:
        log.info("TADiSR: %s.", "; ".join(missing))
