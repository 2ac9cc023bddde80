"""Step 6: LR images, by Real-ESRGAN's pipeline, and the same brought back to HR size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tadisr.config import SCALE
from tadisr.file_digest import hash_file
from tadisr.images import from_pixels, resize_image, to_pixels

from ...data.degradation.on_tensors import degrade_batch
from ...data.degradation.recipes import degrade_image
from ...psnr import compute_psnr
from ..config import to_dict
from ..engine.journal import Record, write_bytes
from ..engine.step import Pixels, Step, encode_png, hash_steps, read_pixels, split_groups

FOLDERS = ("gt", "lr", "sr_bicubic", "mask")


@dataclass(frozen=True, kw_only=True)
class Degrade(Step):
    """Records: the LR's PSNR brought back to HR size, and the checksums of a sample's four files."""

    name = "degrade"
    on_device = True

    compose: Step

    def describe_settings(self) -> Record:
        own = to_dict(self.config.degrade)
        return {"preset": own["preset"], "tools": own["tools"], "after": hash_steps(self.compose)}

    def list_chunks(self) -> dict[int, Any]:
        return dict(enumerate(split_groups(list(range(self.config.samples)), self.config.degrade.batch)))

    def covers_chunk(self, records: list[Record], chunk: Any) -> bool:
        return [record["sample"] for record in records] == chunk

    def __call__(self, chunk: Any) -> list[Record]:
        names = [f"{index + 1:07d}.png" for index in chunk]
        hrs = [read_pixels(self.out / "gt" / name) for name in names]
        rngs = [np.random.default_rng([self.config.seed, index, 1]) for index in chunk]
        records = list[Record]()
        for index, name, hr, lr in zip(chunk, names, hrs, self.make_lr(hrs, rngs), strict=True):
            up = to_pixels(resize_image(from_pixels(lr), (lr.shape[0] * SCALE, lr.shape[1] * SCALE)))
            write_bytes(self.out / "lr" / name, encode_png(lr))
            write_bytes(self.out / "sr_bicubic" / name, encode_png(up))
            sums = {folder: hash_file(self.out / folder / name) for folder in FOLDERS}
            records.append({"sample": index, "psnr": round(compute_psnr(up, hr), 3), "sha256": sums})
        return records

    def make_lr(self, hrs: list[Pixels], rngs: list[np.random.Generator]) -> list[Pixels]:
        """Degrade 8-bit HR images of one size to 8-bit LR images."""
        c = self.config.degrade
        if c.tools == "opencv":
            floats = [
                degrade_image(hr.astype(np.float32) / 255, c.preset, rng) for hr, rng in zip(hrs, rngs, strict=True)
            ]
            return [(lr * 255).round().astype(np.uint8) for lr in floats]
        with torch.inference_mode():
            batch = torch.cat([from_pixels(hr) for hr in hrs]).to(self.device)
            return [to_pixels(lr) for lr in degrade_batch(batch, c.preset, rngs).cpu()]

    def written_files(self, record: Record) -> list[Path]:
        return [self.out / folder / f"{record['sample'] + 1:07d}.png" for folder in ("lr", "sr_bicubic")]

    def output_folders(self) -> list[Path]:
        return [self.folder, self.out / "lr", self.out / "sr_bicubic"]
