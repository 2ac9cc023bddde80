"""Scores on held-out pictures while a run goes on: PSNR, the mask's IoU, and the OCR-A of the paper by an engine on disk."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from tadisr import ocr
from tadisr.model import TADiSR

from .data.triplets import Sample, Samples
from .panel import iou, psnr
from .settings import ValidateConfig

BEST = ("psnr", "ocr_a")  # a checkpoint is kept for the best of each


class Validation:
    """The first `pictures` of held-out samples; every process scores its share."""

    def __init__(self, config: ValidateConfig, samples: Samples, count: int | None, accelerator: Accelerator) -> None:
        self.accelerator, self.minimum = accelerator, config.minimum
        self.count = min(config.pictures, count or config.pictures)
        self.samples = samples
        self.reader = None if config.ocr == "off" else ocr.reader(config.ocr)
        self.lines: dict[int, list[ocr.Line]] = {}  # of the HR pictures, read once

    @torch.no_grad()
    def score(self, model: TADiSR) -> dict[str, float]:
        """psnr and psnr_bicubic in dB, mask_iou, ocr_a: means over pictures; ocr_a over those in which HR has text."""
        model.eval()
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        rows: list[tuple[int, dict[str, float]]] = []
        for turn in range(-(-self.count // world)):  # as many runs in every process: a split model needs them all
            index = min(turn * world + rank, self.count - 1)
            sample = self.samples.sample(index)
            output = model(sample["upscaled"][None].to(model.device))
            mask = None if output.mask_logits is None else output.mask_logits.float().cpu().sigmoid()
            rows.append((index, self.row(index, sample, output.image.float().cpu().clamp(0, 1), mask)))
        model.train()
        together = dict(gather_object(rows) if world > 1 else rows)
        names = dict.fromkeys(name for row in together.values() for name in row)
        columns = {name: [row[name] for _, row in sorted(together.items()) if name in row] for name in names}
        return {name: sum(values) / len(values) for name, values in columns.items()}

    def row(self, index: int, sample: Sample, image: Tensor, mask: Tensor | None) -> dict[str, float]:
        hr = sample["hr"][None]
        row = {"psnr": psnr(image, hr), "psnr_bicubic": psnr(sample["upscaled"][None], hr)}
        if mask is not None and sample["mask"].any():
            row["mask_iou"] = iou(mask, sample["mask"][None])
        if self.reader is not None:
            if index not in self.lines:
                self.lines[index] = ocr.reference(hr, self.reader, minimum=self.minimum)
            read = ocr.score(ocr.reread(self.lines[index], image, self.reader))
            if read is not None:
                row["ocr_a"] = read.ocr_a
        return row


class Best:
    """The best score so far of each kind that is kept."""

    def __init__(self, scores: dict[str, float] | None = None) -> None:
        self.scores = dict(scores or {})

    def better(self, scores: dict[str, float]) -> list[str]:
        """Which of BEST these scores beat; they are remembered."""
        names = [name for name in BEST if name in scores and scores[name] > self.scores.get(name, float("-inf"))]
        self.scores |= {name: scores[name] for name in names}
        return names
