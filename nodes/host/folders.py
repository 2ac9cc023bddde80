"""The folders of ComfyUI's models that belong to TADiSR."""

from __future__ import annotations

from pathlib import Path

import folder_paths

FOLDER = "tadisr"  # under ComfyUI's models


def changed(path: str | Path) -> int:
    """Return a file's modification time for caches and fingerprints; 0 for a file that is missing."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def register_model_folder() -> None:
    """Register `models/tadisr`, and whatever the user's extra_model_paths.yaml adds to it."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER), is_default=True)
    folders, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (folders, {".safetensors"})


def ocr_models(engine: str) -> Path | None:
    """Return `models/ppocr` for an engine's models; None for rapidocr where no ONNX file is there: it brings its own."""
    folder = Path(folder_paths.models_dir) / "ppocr"
    return None if engine == "rapidocr" and not any(folder.glob("*.onnx")) else folder
