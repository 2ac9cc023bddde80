"""Segmenters at work: images of any size in, probabilities of the same size out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import tadisr
from tadisr.errors import CheckpointError
from tadisr.file_digest import hash_file
from tadisr.images import from_pixels, resize_image
from tadisr.inference.run_tile import run_tile
from tadisr.inference.tiling import list_starts, make_profiles
from tadisr.model.precision import DTYPES

from .sam_ts import checkpoint
from .sam_ts.network import SamTS
from .segmenter import Mask, Picture

WINDOW, STRIDE = 512, 384  # of large images, as Hi-SAM's authors cut them
LARGE = 1024  # the longer side from which on an image is cut


def make_windows(shape: tuple[int, ...], tile: int, overlap: int) -> list[tuple[tuple[slice, slice], Tensor]]:
    """Cover an image (h, w, ...) with windows, and weights that sum to one at every pixel."""
    rows, columns = (
        list(zip(list_starts(size, tile, overlap), make_profiles(size, tile, overlap, blend="linear"), strict=True))
        for size in shape[:2]
    )
    return [
        ((slice(top, top + len(down)), slice(left, left + len(across))), down[:, None] * across)
        for top, down in rows
        for left, across in columns
    ]


class SamTSSegmenter:
    """Each image, or window of a large one, fills the network's square by its longer side."""

    def __init__(
        self,
        path: Path,
        *,
        sam: str | Path | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        batch: int = 1,
        model: SamTS | None = None,
    ) -> None:
        self.name = f"SAM-TS {path.name}"
        self.digest = hash_file(path) if path.is_file() else ""
        self.model = (model or checkpoint.load_sam_ts(path, sam=sam)).to(device).eval().requires_grad_(False)
        self.device, self.batch = torch.device(device), max(1, batch)
        self.dtype = DTYPES[precision]

    def __call__(self, images: list[Picture]) -> list[Mask]:
        """Windows of all images go through in common batches."""
        side = self.model.config.image
        large, window, stride = (value * side // 1024 for value in (LARGE, WINDOW, STRIDE))
        whole = [max(image.shape[:2]) <= large for image in images]
        jobs = [
            (number, where, weight)
            for number, image in enumerate(images)
            for where, weight in make_windows(
                image.shape, *((max(image.shape), 0) if whole[number] else (window, window - stride))
            )
        ]
        logits = [torch.zeros(image.shape[:2]) for image in images]
        for begin in range(0, len(jobs), self.batch):
            group = jobs[begin : begin + self.batch]
            found = self._logits([images[number][where] for number, where, _ in group])
            for (number, where, weight), one in zip(group, found, strict=True):
                logits[number][where] += one * weight
        return [one.sigmoid().numpy() for one in logits]

    @torch.inference_mode()
    def _logits(self, cuts: list[Picture]) -> list[Tensor]:
        """One batch through the network; each answer (h, w) at its image's size, on the CPU."""
        side, squares, sizes = self.model.config.image, [], []
        for cut in cuts:
            height, width = cut.shape[:2]
            scale = side / max(height, width)
            sizes.append((max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))))
            image = torch.from_numpy(np.ascontiguousarray(cut)).to(self.device).permute(2, 0, 1)[None].float()
            image = F.interpolate(image, sizes[-1], mode="bilinear", align_corners=False)
            squares.append(self.model.prepare(image))
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if half else nullcontext():
            logits = self.model(torch.cat(squares)).high.float()
        return [
            F.interpolate(one[None, :, :height, :width], cut.shape[:2], mode="bilinear", align_corners=False)[
                0, 0
            ].cpu()
            for one, (height, width), cut in zip(logits, sizes, cuts, strict=True)
        ]


ACROSS, PAGE = 128, 1024  # see OwnSegmenter.factor
TILE, OVERLAP = 512, 128


class OwnSegmenter:
    """A model of this project that sees the image as if it had been upscaled already, and of which only the mask counts.

    It draws strokes best when they are as large as in its training and a little more: see `factor`.
    """

    def __init__(self, path: Path | None, *, device: str = "cpu", across: int = ACROSS) -> None:
        file = tadisr.COMPACT if path is None else path
        self.name, self.digest = f"TADiSR {file.name}", hash_file(file)
        self.device, self.across = torch.device(device), across
        self.model = tadisr.load(path, device=device)
        blank = torch.zeros(1, 3, self.model.config.multiple, self.model.config.multiple, device=self.device)
        if self.model(blank).mask_logits is None:
            raise CheckpointError(f"{file} has no text decoder: it cannot be a segmenter.")

    def choose_factor(self, height: int, width: int) -> float:
        """Choose the factor by which an image is enlarged first.

        A line of text, long and low, is brought to `across` pixels (at most four times); any other image is doubled, or left
        as it is beyond 1024 pixels.

        A line of text, long and low, is brought to `across` pixels (at most four times); any other image is doubled, one
        beyond 1024 pixels stays as it is.
        """
        short, long = min(height, width), max(height, width)
        if short <= self.across or (short <= 2 * self.across and long >= 1.5 * short):
            return min(4.0, self.across / short)
        return 2.0 if long <= PAGE else 1.0

    @torch.inference_mode()
    def __call__(self, images: list[Picture]) -> list[Mask]:
        return [self._one(image) for image in images]

    def _one(self, image: Picture) -> Mask:
        height, width = image.shape[:2]
        factor = self.choose_factor(height, width)
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        picture = resize_image(from_pixels(image), size)
        mask = torch.zeros(1, 1, *size)
        for (rows, columns), weight in make_windows(size, TILE, OVERLAP):
            _, maps = run_tile(self.model, picture[..., rows, columns], self.device)
            mask[..., rows, columns] += weight * maps[:, :1].cpu()
        return resize_image(mask, (height, width))[0, 0].numpy()
