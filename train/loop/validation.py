"""Score held-out images during a run: PSNR, the mask's IoU, and the paper's OCR-A by an engine on disk."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from tadisr import ocr
from tadisr.config import SCALE
from tadisr.errors import ConfigError
from tadisr.model import TADiSR

from ..config import ValidateConfig
from ..data.triplets import SMALL_TEXT, HeldOut, Sample
from ..psnr import compute_psnr
from .panel import mask_iou

BEST = {"psnr": "psnr", "ocr_a": "ocr_a", "ocr_a_small": "small"}  # score -> NAME of best-NAME.safetensors


class Validation:
    """Score the first `pictures` of held-out samples; every process scores its share.

    Raises ConfigError where `best` names a source that is not validated.
    """

    def __init__(self, config: ValidateConfig, samples: HeldOut, count: int | None, accelerator: Accelerator) -> None:
        self.accelerator, self.minimum = accelerator, config.minimum
        self.count = min(config.pictures, count or config.pictures)
        self.samples, self.best = samples, config.best or samples.names
        unknown = [name for name in self.best if name not in samples.names]
        if unknown:
            raise ConfigError(f"validate.best names {unknown[0]}; validated are {', '.join(samples.names)}.")
        self.reader = None if config.ocr == "off" else ocr.open_reader(config.ocr)
        self.lines: dict[int, list[ocr.Line]] = {}  # of the HR images, read once

    @torch.no_grad()
    def score(self, model: TADiSR) -> dict[str, float]:
        """Compute psnr and psnr_bicubic in dB, mask_iou, ocr_a and ocr_a_small: means over images.

        ocr_a counts images in which HR has text, ocr_a_small those with lines whose box is under SMALL_TEXT LR pixels high.
        These are the sources' that choose the best; with several sources `NAME@SOURCE` has each one's own.
        """
        model.eval()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        rows: list[tuple[int, dict[str, float]]] = []
        for turn in range(-(-self.count // world)):  # as many runs in every process: a split model needs them all
            index = min(turn * world + rank, self.count - 1)
            sample = self.samples.draw_sample(index)
            output = model(sample["upscaled"][None].to(model.device))
            mask = None if output.mask_logits is None else output.mask_logits.float().cpu().sigmoid()
            rows.append((index, self.row(index, sample, output.image.float().cpu().clamp(0, 1), mask)))
        model.train()
        together = sorted(dict(gather_object(rows) if world > 1 else rows).items())
        scores = mean_rows([row for index, row in together if self.samples.source(index) in self.best])
        if len(self.samples.names) > 1:
            for name in self.samples.names:
                own = mean_rows([row for index, row in together if self.samples.source(index) == name])
                scores |= {f"{score}@{name}": value for score, value in own.items()}
        return scores

    def row(self, index: int, sample: Sample, image: Tensor, mask: Tensor | None) -> dict[str, float]:
        """Score one image (1, 3, H, W) and mask (1, 1, H, W) in [0, 1] against its sample."""
        hr = sample["hr"][None]
        enlarged = sample["upscaled"][None]
        row = {"psnr": compute_psnr(image, hr, peak=1), "psnr_bicubic": compute_psnr(enlarged, hr, peak=1)}
        if mask is not None and sample["mask"].any():
            row["mask_iou"] = mask_iou(mask, sample["mask"][None])
        if self.reader is not None:
            if index not in self.lines:
                self.lines[index] = ocr.read_reference(hr, self.reader, minimum=self.minimum)
            pairs = ocr.reread_lines(self.lines[index], image, self.reader)
            small = [pair for pair in pairs if measure_line_height(pair.before) < SMALL_TEXT]
            scores = {"ocr_a": ocr.score_pairs(pairs), "ocr_a_small": ocr.score_pairs(small)}
            row |= {name: score.ocr_a for name, score in scores.items() if score is not None}
        return row


def measure_line_height(line: ocr.Line) -> float:
    """Return the shorter side of a line's box in LR pixels."""
    return float(np.linalg.norm(line.box - np.roll(line.box, -1, 0), axis=1).min()) / SCALE


def mean_rows(rows: list[dict[str, float]]) -> dict[str, float]:
    """Average each score over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in columns.items()}


class Best:
    """The best score so far of each kind that is kept."""

    def __init__(self, scores: dict[str, float] | None = None) -> None:
        self.scores = dict(scores or {})

    def update_best(self, scores: dict[str, float]) -> list[str]:
        """Keep the scores that are better than before, and return the names of their files."""
        names = [name for name in BEST if name in scores and scores[name] > self.scores.get(name, float("-inf"))]
        self.scores |= {name: scores[name] for name in names}
        return [BEST[name] for name in names]
