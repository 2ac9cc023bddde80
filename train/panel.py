"""A fixed set of validation pictures: scored and drawn at intervals, so that a run can be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tadisr.image import resize, write_png
from tadisr.model import TADiSR


class Samples(Protocol):
    def sample(self, index: int) -> dict[str, Tensor]: ...


class Panel:
    """The first `count` samples of a stream that training never sees."""

    def __init__(self, stream: Samples, count: int) -> None:
        samples = [stream.sample(index) for index in range(count)]
        self.lr, self.hr, self.mask = (torch.stack([s[key] for s in samples]) for key in ("lr", "hr", "mask"))
        self.upscaled = resize(self.lr, (self.hr.shape[2], self.hr.shape[3]))

    @torch.no_grad()
    def draw(self, model: TADiSR, path: Path) -> dict[str, float]:
        """Write rows of upscaled LR | SR | HR | mask | true mask; PSNR in dB (ours, bicubic) and the mask's IoU."""
        model.eval()
        device = model.device
        outputs = [model(picture[None].to(device)) for picture in self.upscaled]
        model.train()
        image = torch.cat([o.image for o in outputs]).float().cpu().clamp(0, 1)
        columns = [self.upscaled, image, self.hr]
        scores = {"psnr": psnr(image, self.hr), "psnr_bicubic": psnr(self.upscaled, self.hr)}
        if outputs[0].mask_logits is not None:
            mask = torch.cat([o.mask_logits for o in outputs if o.mask_logits is not None]).float().cpu().sigmoid()
            scores["mask_iou"] = iou(mask, self.mask)
            columns += [mask.expand(-1, 3, -1, -1), self.mask.expand(-1, 3, -1, -1)]
        rows = torch.cat(columns, dim=3)  # (count, 3, H, columns * W)
        write_png(path, torch.cat(list(rows), dim=1))
        return scores


def psnr(image: Tensor, target: Tensor) -> float:
    """Mean over pictures (B, C, H, W) in [0, 1], in dB."""
    return float((-10 * (image - target).square().mean((1, 2, 3)).clamp_min(1e-10).log10()).mean())


def iou(mask: Tensor, target: Tensor) -> float:
    """Intersection over union of all pixels at a threshold of one half."""
    ours, theirs = mask > 0.5, target > 0.5
    return float((ours & theirs).sum() / (ours | theirs).sum().clamp_min(1))
