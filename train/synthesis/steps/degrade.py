"""Step 6: LR pictures, by Real-ESRGAN's pipeline, and the same brought back to HR size."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tadisr.config import SCALE
from tadisr.images import resize

from ...data.degradation.on_tensors import degrade_batch
from ...data.degradation.recipes import degrade
from ..config import to_dict
from ..engine.journal import Record, write_bytes
from ..engine.step import Pixels, Step, after, groups, png, read_pixels
from .filter import as_image

FOLDERS = ("gt", "lr", "sr_bicubic", "mask")


@dataclass(frozen=True, kw_only=True)
class Degrade(Step):
    """Records: the LR's PSNR brought back to HR size, and the checksums of a sample's four files."""

    name = "degrade"
    on_device = True

    compose: Step

    def settings(self) -> Record:
        own = to_dict(self.config.degrade)
        return {"preset": own["preset"], "tools": own["tools"], "after": after(self.compose)}

    def chunks(self) -> dict[int, Any]:
        return dict(enumerate(groups(list(range(self.config.samples)), self.config.degrade.batch)))

    def covers(self, records: list[Record], chunk: Any) -> bool:
        return [record["sample"] for record in records] == chunk

    def __call__(self, chunk: Any) -> list[Record]:
        names = [f"{index + 1:07d}.png" for index in chunk]
        hrs = [read_pixels(self.out / "gt" / name) for name in names]
        rngs = [np.random.default_rng([self.config.seed, index, 1]) for index in chunk]
        records = list[Record]()
        for index, name, hr, lr in zip(chunk, names, hrs, self.lrs(hrs, rngs), strict=True):
            up = as_pixels(resize(as_image(lr), (lr.shape[0] * SCALE, lr.shape[1] * SCALE)))
            write_bytes(self.out / "lr" / name, png(lr))
            write_bytes(self.out / "sr_bicubic" / name, png(up))
            sums = {folder: hashlib.sha256((self.out / folder / name).read_bytes()).hexdigest() for folder in FOLDERS}
            records.append({"sample": index, "psnr": psnr(up, hr), "sha256": sums})
        return records

    def lrs(self, hrs: list[Pixels], rngs: list[np.random.Generator]) -> list[Pixels]:
        """8-bit LR of 8-bit HR pictures of one size."""
        c = self.config.degrade
        if c.tools == "opencv":
            floats = [degrade(hr.astype(np.float32) / 255, c.preset, rng) for hr, rng in zip(hrs, rngs, strict=True)]
            return [(lr * 255).round().astype(np.uint8) for lr in floats]
        with torch.inference_mode():
            batch = torch.cat([as_image(hr) for hr in hrs]).to(self.device)
            return [as_pixels(lr[None]) for lr in degrade_batch(batch, c.preset, rngs).cpu()]

    def files(self, record: Record) -> list[Path]:
        return [self.out / folder / f"{record['sample'] + 1:07d}.png" for folder in ("lr", "sr_bicubic")]

    def output(self) -> list[Path]:
        return [self.folder, self.out / "lr", self.out / "sr_bicubic"]


def as_pixels(image: torch.Tensor) -> Pixels:
    """(1, 3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return np.ascontiguousarray((image[0].clamp(0, 1) * 255).round().byte().numpy().transpose(1, 2, 0))


def psnr(one: Pixels, two: Pixels) -> float:
    """In dB, over RGB of 8 bits; 100 for equal pictures."""
    error = float(((one.astype(np.float32) - two) ** 2).mean())
    return 100.0 if error == 0 else round(10 * math.log10(255**2 / error), 3)
