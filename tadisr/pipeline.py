"""From a picture to one four times larger and its text mask: resize, tile, run the network, blend, mend the colours."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import adapter, color, tiling
from .config import SCALE
from .errors import ConfigError, ImageError
from .image import join_alpha, output_size, pad_to_multiple, resize, split_alpha
from .kolors.base import load_base
from .model import TADiSR

log = logging.getLogger(__name__)

COMPACT = Path(__file__).parent / "weights" / "compact.safetensors"

DTYPES = {  # by the names that commands and nodes take
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
SMALLEST_TILE = 128  # below this a tile is all border

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Upscaled:
    """float32 on the CPU, in [0, 1]. The mask is all zero for a model without the joint decoders."""

    image: Tensor  # (B, C, sH, sW), as many channels as came in
    mask: Tensor  # (B, 1, sH, sW), the probability of text


def load(
    path: str | Path | None = None,
    *,
    base: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> TADiSR:
    """A model ready to run: the compact one that ships with the pack, or any checkpoint of ours.

    base: the folder of the frozen base, for an adapter. dtype None: float32. Raises CheckpointError.
    """
    path = COMPACT if path is None else Path(path)
    config = adapter.read_header(path).config
    model = TADiSR(config) if config.lora is None else load_base(base, config)
    adapter.load_tensors(model, path)
    return model.to(device=device, dtype=dtype or torch.float32).eval().requires_grad_(False)


@torch.inference_mode()
def upscale(
    model: TADiSR,
    image: Tensor,
    *,
    scale: float = SCALE,
    tile: int = 768,
    overlap: int = 256,
    batch: int = 1,
    color_fix: str = "off",
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Upscaled:
    """Upscale a batch of pictures tile by tile.

    image: (B, C, h, w) in [0, 1], what lies outside is clamped; C is 1 (grey), 2 (grey, alpha), 3 or 4 (RGBA).
    scale: 1 to 4; the network magnifies by 4, less is an exact resize of that. tile, overlap: pixels of the x4
    picture. color_fix: off, adain or wavelet, against the input. progress(done, total) counts tiles after every
    batch of them; raise inside it to cancel.
    Raises ImageError, ConfigError.
    """
    check(image, scale)
    device = device or model.device
    height, width = image.shape[-2:]
    colors, alpha = split_alpha(image.float().cpu().clamp(0, 1))
    plan = tiling.Tiling(tile=tile, overlap=overlap, batch=batch)
    picture, mask = tiling.run_tiled(lambda x: run_tile(model, x, device), colors, tiling=plan, progress=progress)
    if color_fix != "off":
        picture = color.match(picture, resize(colors, (height * SCALE, width * SCALE)), color_fix)
    size = output_size(height, width, scale)
    if size != (height * SCALE, width * SCALE):
        picture, mask = resize(picture, size), resize(mask, size)
    return Upscaled(join_alpha(picture, alpha, channels=image.shape[1]), mask)


def upscale_in_memory(
    model: TADiSR,
    image: Tensor,
    *,
    tile: int = 768,
    overlap: int = 256,
    batch: int = 1,
    say: Callable[[str], object] = log.warning,
    **arguments: Any,
) -> Upscaled:
    """`upscale`, and when the GPU's memory does not suffice again with one tile at a time, then with half the tile.

    say: gets one sentence each time. Raises torch.cuda.OutOfMemoryError when the smallest tile is too large.
    """
    while True:
        try:
            return upscale(model, image, tile=tile, overlap=overlap, batch=batch, **arguments)
        except torch.cuda.OutOfMemoryError:
            if batch == 1 and tile // 2 < SMALLEST_TILE:
                raise
        if batch > 1:
            batch = 1
        else:
            tile, overlap = tile // 2, min(overlap, tile // 4)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"Out of memory: going on with tiles of {tile}, overlap {overlap}, {batch} at once.")


def run_tile(model: TADiSR, tile: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """One batch of upscaled tiles (n, 3, H, W) in [0, 1], any size -> pictures and masks of that size in [0, 1]."""
    height, width = tile.shape[-2:]
    padded = pad_to_multiple(tile, model.config.multiple).to(device)
    output = model(padded)
    picture = output.image[..., :height, :width].float().clamp(0, 1)
    if output.mask_logits is None:
        return picture, torch.zeros_like(picture[:, :1])
    return picture, output.mask_logits[..., :height, :width].float().sigmoid()


def check(image: Tensor, scale: float) -> None:
    """Refuse what no upscaler could take. Raises ImageError, ConfigError."""
    if image.ndim != 4 or image.shape[1] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ImageError(
            f"A picture of shape {tuple(image.shape)} cannot be upscaled: expected (B, 1 to 4, h, w), not empty."
        )
    if not torch.isfinite(image).all():
        raise ImageError("The picture has NaN or infinite values: the node before this one went wrong.")
    if not 1 <= scale <= SCALE:
        raise ConfigError(f"scale is {scale}, expected 1 to {SCALE}.")
