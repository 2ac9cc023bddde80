"""The figures of the paper's Tables 1 and 2, and the names its methods go by."""

from __future__ import annotations

import re

METRICS = ("psnr", "ssim", "lpips", "fid", "ocr_a")
HEADS = {"psnr": "PSNR ↑", "ssim": "SSIM ↑", "lpips": "LPIPS ↓", "fid": "FID ↓", "ocr_a": "OCR-A ↑"}

Figures = tuple[float, float, float, float, float]

TABLE_1: dict[str, dict[str, Figures]] = {  # data set -> method -> METRICS
    "FTSR-TE": {
        "R-ESRGAN": (22.45, 0.660, 0.299, 65.19, 0.565),
        "HAT": (24.29, 0.696, 0.299, 66.13, 0.578),
        "SeeSR": (24.32, 0.699, 0.191, 38.10, 0.595),
        "SupIR": (22.13, 0.617, 0.283, 48.97, 0.532),
        "OSEDiff": (24.49, 0.709, 0.169, 32.47, 0.596),
        "MARCONet": (23.03, 0.661, 0.336, 74.59, 0.467),
        "DiffTSR": (23.59, 0.680, 0.304, 61.65, 0.543),
        "TADiSR": (25.49, 0.736, 0.152, 32.13, 0.662),
    },
    "Real-CE-val": {
        "R-ESRGAN": (21.59, 0.779, 0.139, 44.03, 0.693),
        "HAT": (23.05, 0.801, 0.127, 44.50, 0.743),
        "SeeSR": (22.11, 0.753, 0.152, 43.17, 0.218),
        "SupIR": (21.04, 0.709, 0.190, 46.77, 0.359),
        "OSEDiff": (21.15, 0.735, 0.165, 50.21, 0.244),
        "MARCONet": (22.46, 0.784, 0.151, 46.25, 0.638),
        "DiffTSR": (21.99, 0.777, 0.147, 47.37, 0.582),
        "TADiSR": (24.02, 0.829, 0.100, 38.01, 0.882),
    },
}
TABLE_2: dict[str, Figures] = {  # FTSR-TE
    "w/o JSD": (25.13, 0.723, 0.161, 33.70, 0.594),
    "w/o TACA": (25.26, 0.722, 0.157, 32.74, 0.617),
    "w/o MF Loss": (25.28, 0.729, 0.160, 32.73, 0.629),
    "Ours": (25.49, 0.736, 0.152, 32.13, 0.662),
}
DATA_SETS = {"FTSR": "FTSR-TE", "Real-CE": "Real-CE-val"}  # by the layout of the folder

# How a row's name begins, letters and digits alone -> the paper's name.
NAMES_1 = {
    "realesrgan": "R-ESRGAN", "resrgan": "R-ESRGAN", "hat": "HAT", "realhat": "HAT", "seesr": "SeeSR", "supir": "SupIR",
    "osediff": "OSEDiff", "marconet": "MARCONet", "difftsr": "DiffTSR", "tadisr": "TADiSR", "ours": "TADiSR",
    "full": "TADiSR",
}  # fmt: skip
NAMES_2 = {
    "wojsd": "w/o JSD", "ablationjsd": "w/o JSD", "wotaca": "w/o TACA", "ablationtaca": "w/o TACA",
    "womf": "w/o MF Loss", "ablationmf": "w/o MF Loss", "ours": "Ours", "full": "Ours", "tadisr": "Ours",
}  # fmt: skip


def find_paper_name(name: str, names: dict[str, str]) -> str | None:
    """Find the paper's name of a row; None if the paper has no such method."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((known for start, known in names.items() if plain.startswith(start)), None)
