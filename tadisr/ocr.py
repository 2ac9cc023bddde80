"""Reading an image's text with PP-OCR, by whichever of its two engines is installed, and comparing what is read.

rapidocr carries its models in its wheel; paddleocr, the paper's engine, takes them from a folder. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .errors import ConfigError, TADiSRError
from .file_digest import hash_file
from .images import to_pil

Pixels = NDArray[np.uint8]  # (H, W, 3), BGR as OpenCV has it
Box = NDArray[Any]  # (4, 2) float32: the corners of a line in pixels, clockwise from its top left

TALL = 1.5  # a line this much higher than wide is written downwards, and turned to be read
INSTALL = "pip install rapidocr onnxruntime rapidfuzz"  # what the extra `ocr` names


@dataclass(frozen=True)
class Line:
    """One line that was read: its text, how sure the reader is (0 to 1), and its corners."""

    text: str
    score: float
    box: Box


class Reader(ABC):
    """PP-OCR. Lines are recognised one at a time: in a batch a line's text depends on its neighbours' padding."""

    name: str
    files: tuple[Path, ...]  # the models it reads with

    @cached_property
    def digest(self) -> str:
        """sha256 of the models, their names left out: two readers with one digest have the same weights."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(bytes.fromhex(hash_file(path)))
        return digest.hexdigest()

    @cached_property
    def label(self) -> str:
        """Engine, version, models and the start of their digest, as a table of scores has to say."""
        models = dict.fromkeys(path.stem if path.stem != "inference" else path.parent.name for path in self.files)
        return f"{self.name} {version(self.name)} ({' + '.join(models)}, {self.digest[:12]})"

    @abstractmethod
    def detect_lines(self, pixels: Pixels) -> list[Box]:
        """Detect the boxes of text lines."""

    @abstractmethod
    def recognize_line(self, crop: Pixels) -> tuple[str, float]:
        """Recognize one upright line: its text and the confidence, 0 to 1."""

    def read(self, image: Tensor) -> list[Line]:
        """Read the lines of an image (1, 3, H, W) in [0, 1], top to bottom, those at one height left to right."""
        boxes = self.detect_lines(to_bgr(image))
        if not boxes:
            return []
        height = float(np.median([np.ptp(box[:, 1]) for box in boxes]))
        boxes.sort(key=lambda box: (round(float(box[:, 1].mean()) / height), float(box[:, 0].min())))
        return self.read_boxes(image, boxes)

    def read_boxes(self, image: Tensor, boxes: list[Box]) -> list[Line]:
        """Read the text in the given boxes, in their order, empty text included."""
        pixels = to_bgr(image)
        return [Line(*self.recognize_line(crop_line(pixels, box)), box) for box in boxes]


def to_bgr(image: Tensor) -> Pixels:
    """Convert (1, C, H, W) in [0, 1] to (H, W, 3) uint8 BGR, which PP-OCR expects."""
    return np.ascontiguousarray(np.asarray(to_pil(image).convert("RGB"))[..., ::-1])


def crop_line(pixels: Pixels, box: Box) -> Pixels:
    """Crop the line in a box upright by a perspective warp, as PP-OCR does."""
    import cv2  # comes with either engine

    corners = np.asarray(box, np.float32)
    sides = np.linalg.norm(corners - np.roll(corners, -1, 0), axis=1)  # top, right, bottom, left
    width, height = max(1, int(max(sides[0], sides[2]))), max(1, int(max(sides[1], sides[3])))
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    crop = cv2.warpPerspective(
        pixels, cv2.getPerspectiveTransform(corners, target), (width, height),
        flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    return np.ascontiguousarray(np.rot90(crop)) if height >= TALL * width else crop  # pyright: ignore[reportReturnType]


# ---- engines --------------------------------------------------------------------------------------------------------


class RapidReader(Reader):
    """rapidocr with the models of its wheel, or with the one detector and recogniser (ONNX) in the folder `models`."""

    name = "rapidocr"

    def __init__(self, models: Path | None = None, threads: int | None = None) -> None:
        from rapidocr import RapidOCR

        params: dict[str, Any] = {"Global.log_level": "error", "Global.text_score": 0.0}
        if threads is not None:
            params |= {f"EngineConfig.onnxruntime.{kind}_op_num_threads": threads for kind in ("intra", "inter")}
        if models is not None:
            params |= {f"{stage.capitalize()}.model_path": str(find_onnx(models, stage)) for stage in ("det", "rec")}
        self.engine = RapidOCR(params=params)
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        blank = np.full((64, 64, 3), 255, np.uint8)
        self.engine(blank, use_det=True, use_cls=False, use_rec=True)  # loads them
        self.recognize_line(blank)
        stages: tuple[Any, Any] = (self.engine.text_det, self.engine.text_rec)
        self.files = tuple(Path(stage.session.session._model_path) for stage in stages)

    def detect_lines(self, pixels: Pixels) -> list[Box]:
        result: Any = self.engine(pixels, use_det=True, use_cls=False, use_rec=False)
        boxes = result.boxes
        return [] if boxes is None else [np.asarray(box, np.float32) for box in boxes]

    def recognize_line(self, crop: Pixels) -> tuple[str, float]:
        result: Any = self.engine(crop, use_det=False, use_cls=False, use_rec=True)
        return (result.txts[0], float(result.scores[0])) if result.txts else ("", 0.0)


def find_onnx(folder: Path, stage: str) -> Path:
    """Find the one ONNX file of a stage, `det` or `rec`, in a folder. Raises TADiSRError where there is not exactly one."""
    found = sorted(path for path in folder.glob("*.onnx") if f"_{stage}_" in f"_{path.stem}_")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise TADiSRError(
            f"{folder} must hold one ONNX file with _{stage}_ in its name, such as ch_PP-OCRv4_{stage}_server.onnx; "
            f"found {names}."
        )
    return found[0]


# As PaddleOCR's own pipeline has it; the bare model would shrink an image to 960 pixels and lose its small print.
DETECTION = {"limit_side_len": 64, "limit_type": "min", "thresh": 0.3, "box_thresh": 0.6, "unclip_ratio": 1.5}


class PaddleReader(Reader):
    name = "paddleocr"

    def __init__(self, models: Path | None = None, threads: int | None = None) -> None:
        os.environ.setdefault("PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK", "True")  # it asks the network at import
        from paddleocr import TextDetection, TextRecognition  # pyright: ignore[reportMissingImports]

        detector, recognizer = find_models([folder for folder in (models, locate_paddle_cache()) if folder is not None])
        self.files = tuple(file for folder in (detector, recognizer) for file in sorted(folder.glob("inference.*")))
        self.detector = TextDetection(
            model_name=detector.name, model_dir=str(detector), **DETECTION, **choose_backend(detector, threads)
        )
        self.recognizer = TextRecognition(
            model_name=recognizer.name, model_dir=str(recognizer), **choose_backend(recognizer, threads)
        )

    def detect_lines(self, pixels: Pixels) -> list[Box]:
        return [np.asarray(box, np.float32) for box in self.detector.predict(pixels)[0]["dt_polys"]]

    def recognize_line(self, crop: Pixels) -> tuple[str, float]:
        result = self.recognizer.predict(crop)[0]
        return result["rec_text"], float(result["rec_score"])


def locate_paddle_cache() -> Path:
    """Return the folder in which paddleocr keeps its models."""
    return Path(os.environ.get("PADDLE_PDX_CACHE_HOME", Path.home() / ".paddlex")) / "official_models"


def find_models(folders: list[Path]) -> tuple[Path, Path]:
    """Find the newest pair of PP-OCR_det and PP-OCR_rec folders of one kind, as paddleocr names them.

    Raises TADiSRError where there is none: paddleocr itself would go to the network.
    """
    found = {path.name: path for folder in reversed(folders) if folder.is_dir() for path in folder.iterdir()}
    for name in sorted(found, reverse=True):
        if name.endswith("_det") and (found[name] / "inference.yml").is_file():
            partner = found.get(f"{name.removesuffix('_det')}_rec")
            if partner is not None and (partner / "inference.yml").is_file():
                return found[name], partner
    raise TADiSRError(
        f"paddleocr is here, but none of its models: put PP-OCRv5_mobile_det and PP-OCRv5_mobile_rec (or any such pair) "
        f"into {folders[0]}, or choose rapidocr, which brings its own."
    )


def choose_backend(folder: Path, threads: int | None = None) -> dict[str, Any]:
    """Choose how paddleocr runs a model folder: ONNX by onnxruntime, else paddlepaddle."""
    if (folder / "inference.onnx").is_file():
        config = {} if threads is None else {"engine_config": {"intra_op_num_threads": threads}}
        return {"device": "cpu", "engine": "onnxruntime", **config}
    # paddlepaddle 3.3's new IR crashes on these models with oneDNN.
    config = {"run_mode": "mkldnn", "enable_new_ir": False} | ({} if threads is None else {"cpu_threads": threads})
    return {"device": "cpu", "engine": "paddle_static", "engine_config": config}


ENGINES: dict[str, Callable[[Path | None, int | None], Reader]] = {"paddleocr": PaddleReader, "rapidocr": RapidReader}


def open_reader(engine: str = "auto", models: Path | None = None, *, threads: int | None = None) -> Reader:
    """Open a reader; it is loaded once for the files on disk. auto: paddleocr if it and its models are installed, else
    rapidocr.

    models: for paddleocr a folder with its model folders (its own cache is searched after it); for rapidocr, where it is
    named, a folder with an ONNX detector and recogniser.
    threads: how many each model may use; None: as many as there are cores.
    Raises TADiSRError where the engine is not installed or has no models, ConfigError for an unknown one.
    """
    if engine not in ("auto", *ENGINES):
        raise ConfigError(f"engine is {engine!r}, expected auto, {' or '.join(ENGINES)}.")
    folders = [folder for folder in (models, locate_paddle_cache()) if folder is not None and folder.is_dir()]
    return _reader(engine, models, threads, tuple(str(path) for folder in folders for path in sorted(folder.iterdir())))


@lru_cache(maxsize=2)
def _reader(engine: str, models: Path | None, threads: int | None, on_disk: tuple[str, ...]) -> Reader:
    problems = []
    for name in ENGINES if engine == "auto" else (engine,):
        try:
            return ENGINES[name](None if engine == "auto" and name == "rapidocr" else models, threads)
        except ImportError as error:
            problems.append(f"{name} is not installed ({error}).")
        except TADiSRError as error:
            problems.append(str(error))
    raise TADiSRError(f"No text can be read: {' '.join(problems)} `{INSTALL}` brings rapidocr with its models.")


# ---- comparing ------------------------------------------------------------------------------------------------------


def text_ratio(first: str, second: str, *, substitution: int = 2) -> float:
    """Compute (len1 + len2 - dist) / (len1 + len2) of two lines; two empty strings are equal.

    substitution 1, plain Levenshtein distance, is the paper's OCR-A, in which two unlike strings of one length still
    get 0.5. With 2, as the ratio of common libraries has it, they get 0: the strict ratio.
    Raises TADiSRError where rapidfuzz is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise TADiSRError(f"Comparing text needs rapidfuzz: `{INSTALL}`.") from error
    total = len(first) + len(second)
    return 1.0 if total == 0 else 1 - Levenshtein.distance(first, second, weights=(1, 1, substitution)) / total


@dataclass(frozen=True)
class Pair:
    """One line of the reference, and what stands in its box in the other image."""

    before: Line
    after: Line

    @property
    def ocr_a(self) -> float:
        """The paper's ratio, a substitution counting 1."""
        return text_ratio(self.before.text, self.after.text, substitution=1)

    @property
    def ratio(self) -> float:
        """The strict ratio, a substitution counting 2."""
        return text_ratio(self.before.text, self.after.text)


def read_reference(image: Tensor, engine: Reader, *, minimum: float = 0.8) -> list[Line]:
    """Read the lines of a reference image (1, 3, H, W) that count: confidence of at least `minimum`, not empty."""
    return select_countable(engine.read(image), minimum=minimum)


def select_countable(lines: Sequence[Line], *, minimum: float) -> list[Line]:
    return [line for line in lines if line.score >= minimum and line.text.strip()]


def reread_lines(lines: Sequence[Line], image: Tensor, engine: Reader) -> list[Pair]:
    """Read the boxes of a reference's lines in another image (1, 3, H, W) of the same size."""
    again = engine.read_boxes(image, [line.box for line in lines])
    return [Pair(first, second) for first, second in zip(lines, again, strict=True)]


def compare_text(before: Tensor, after: Tensor, engine: Reader, *, minimum: float = 0.8) -> list[Pair]:
    """Read the lines of `before` with confidence `minimum`, and the same boxes in `after`.

    Both (1, 3, H, W), of one size.
    """
    return reread_lines(read_reference(before, engine, minimum=minimum), after, engine)


@dataclass(frozen=True)
class Score:
    """OCR-A of images. The node and train.evaluate both count by this class."""

    ocr_a: float  # the paper's: plain Levenshtein distance
    strict: float  # a substitution counting 2
    exact: float  # the share of lines that read the same, letter for letter
    lines: int
    pictures: int = 1  # those with text


def score_pairs(pairs: Sequence[Pair]) -> Score | None:
    """Average the scores of an image's lines. None for an image without text."""
    if not pairs:
        return None
    return Score(
        ocr_a=mean(pair.ocr_a for pair in pairs),
        strict=mean(pair.ratio for pair in pairs),
        exact=mean(float(pair.before.text == pair.after.text) for pair in pairs),
        lines=len(pairs),
    )


def average_scores(scores: Sequence[Score | None]) -> Score | None:
    """Average the scores of the images with text, all weighted equally. None if there are none."""
    found = [one for one in scores if one is not None]
    if not found:
        return None
    return Score(
        ocr_a=mean(one.ocr_a for one in found),
        strict=mean(one.strict for one in found),
        exact=mean(one.exact for one in found),
        lines=sum(one.lines for one in found),
        pictures=len(found),
    )
