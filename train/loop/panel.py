"""A fixed set of validation images: scored and drawn at intervals, so that a run can be looked at."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tadisr.images import write_png
from tadisr.model import Output, TADiSR
from tadisr.visualization.attention_heatmap import colorize_heat

from ..data.triplets import Samples
from ..psnr import compute_psnr


class Panel:
    """The first `count` of held-out samples."""

    def __init__(self, samples: Samples, count: int) -> None:
        drawn = [samples.draw_sample(index) for index in range(count)]
        self.upscaled, self.hr, self.mask = (torch.stack([s[key] for s in drawn]) for key in ("upscaled", "hr", "mask"))

    @torch.no_grad()
    def draw(self, model: TADiSR, path: Path | None) -> dict[str, float]:
        """Write rows of upscaled LR | SR | HR | mask | true mask | text attention, if there is a path;

        Gives PSNR in dB (ours, bicubic) and the mask's IoU.
        """
        model.eval()
        device = model.device
        outputs = [model(picture[None].to(device)) for picture in self.upscaled]
        model.train()
        image = torch.cat([o.image for o in outputs]).float().cpu().clamp(0, 1)
        columns = [self.upscaled, image, self.hr]
        scores = {
            name: sum(compute_psnr(*pair, peak=1) for pair in zip(made, self.hr, strict=True)) / len(made)
            for name, made in (("psnr", image), ("psnr_bicubic", self.upscaled))
        }
        if outputs[0].mask_logits is not None:
            mask = torch.cat([o.mask_logits for o in outputs if o.mask_logits is not None]).float().cpu().sigmoid()
            scores["mask_iou"] = mask_iou(mask, self.mask)
            columns += [mask.expand(-1, 3, -1, -1), self.mask.expand(-1, 3, -1, -1)]
        if outputs[0].responses:
            columns.append(torch.cat([draw_attention(o, self.hr.shape[2]) for o in outputs]))
        gap = (0, 2, 0, 2)  # white lines between the images
        rows = torch.cat([F.pad(column, gap, value=1.0) for column in columns], dim=3)
        if path is not None:
            write_png(path, torch.cat(list(rows), dim=1))
        return scores


def draw_attention(output: Output, size: int) -> Tensor:
    """Draw the mean response to the target token over layers and heads, scaled to its range -> (1, 3, size, size)."""
    maps = [
        F.interpolate(r.float().cpu().mean(1, keepdim=True), (size, size), mode="bilinear") for r in output.responses
    ]
    heat = torch.stack(maps).mean(0)
    return colorize_heat((heat - heat.amin()) / (heat.amax() - heat.amin()).clamp_min(1e-12), "turbo").clamp(0, 1)


def mask_iou(mask: Tensor, target: Tensor) -> float:
    """Compute the intersection over union of two masks in [0, 1] at a threshold of 0.5."""
    ours, theirs = mask > 0.5, target > 0.5
    return float((ours & theirs).sum() / (ours | theirs).sum().clamp_min(1))
