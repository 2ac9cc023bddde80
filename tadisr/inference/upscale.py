"""From a picture to one four times larger and its text mask: resize, tile, run the network, blend, mend the colours."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints import adapter
from ..checkpoints.base_model import load_base
from ..config import SCALE
from ..errors import CheckpointError, ConfigError, ImageError
from ..images import join_alpha, output_size, pad_to_multiple, resize, split_alpha
from ..model import TADiSR
from ..model.certainty import keep_sure_detail
from ..model.mask_guidance import guided
from ..model.precision import compute_type
from ..prompt import read_prompt
from . import color
from .preview import Preview
from .tiling import Tiling, Window, run_tiled

log = logging.getLogger(__name__)

COMPACT = Path(__file__).parents[1] / "weights" / "compact.safetensors"
DEFAULT_TILING = Tiling()
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
    vae: str | Path | None = None,
    prompt: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    strength: float = 1.0,
) -> TADiSR:
    """A model ready to run: the compact one that ships with the pack, or any checkpoint of ours.

    base, vae: the frozen base of an adapter, as `load_base` takes it: a folder, or a file each. dtype: of the weights,
    None: float32; with float8_e4m3fn the denoiser's matrices are stored in it and computed in bf16 or fp16 on a GPU, in
    fp32 on a CPU. strength: of the adapter's LoRA. prompt: a prompt file that replaces the one it carries. Raises
    CheckpointError.
    """
    path = COMPACT if path is None else Path(path)
    config = adapter.read_header(path).config
    if config.lora is None and (base is not None or vae is not None):
        raise CheckpointError(f"{path} stands alone, it is no adapter: leave out the base {base or vae}.")
    dtype = dtype or torch.float32
    compute = compute_type(dtype, device)
    if config.lora is not None:
        model = load_base(base, config, vae=vae, dtype=dtype, compute=compute, empty=True)
    else:
        with torch.device("meta"):
            model = TADiSR(config)
    encoded = None if prompt is None else read_prompt(prompt)
    adapter.load_tensors(model, path, dtype=dtype, compute=compute, strength=strength, prompt=encoded)
    return model.to(device=device).eval().requires_grad_(False)


@torch.inference_mode()
def upscale(
    model: TADiSR,
    image: Tensor,
    *,
    scale: float = SCALE,
    tiling: Tiling = DEFAULT_TILING,
    enlarged: Tensor | None = None,
    guide: Tensor | None = None,
    fidelity: float = 0.0,
    detail: float | None = None,
    color_fix: str = "off",
    device: torch.device | None = None,
    progress: Progress | None = None,
    preview: Callable[[Tensor], object] | None = None,
) -> Upscaled:
    """Upscale a batch of pictures tile by tile.

    image: (B, C, h, w) in [0, 1], what lies outside is clamped; C is 1 (grey), 2 (grey, alpha), 3 or 4 (RGBA).
    scale: 1 to 4; the network magnifies by 4, less is an exact resize of that. enlarged (B, 3, 4h, 4w): the picture
    already brought to that size, fed as it is instead of a bicubic enlargement. guide (B or 1, 1, h', w') in [0, 1]:
    an edited text mask of any size that steers the decoders. fidelity: 0 to 1, how much of the input outside the text
    stays as it was, only enlarged. detail: 0 to 1, how much of what a model with a certainty output is not sure of is
    kept (`keep_sure_detail`); None: the model's default. color_fix: off, adain or wavelet, against the input.
    progress(done, total) counts tiles after every batch of them; raise inside it to cancel. preview: gets a small
    (1, 3, h", w") of what is done so far, just before each call of progress.
    Raises ImageError, ConfigError.
    """
    check(image, scale)
    if not 0 <= fidelity <= 1:
        raise ConfigError(f"fidelity is {fidelity}, expected 0 to 1.")
    if detail is not None and not 0 <= detail <= 1:
        raise ConfigError(f"detail is {detail}, expected 0 to 1.")
    device = device or model.device
    height, width = image.shape[-2:]
    full = (height * SCALE, width * SCALE)
    colors, alpha = split_alpha(image.float().cpu().clamp(0, 1))
    if guide is not None:
        guide = resize(checked_guide(guide, len(image)), full)
    if enlarged is not None and enlarged.shape != (len(image), 3, *full):
        raise ImageError(f"The enlarged picture has shape {tuple(enlarged.shape)}, expected {(len(image), 3, *full)}.")

    small = Preview(colors)

    def run(tiles: Tensor, windows: list[Window]) -> tuple[Tensor, Tensor]:
        if enlarged is not None:
            tiles = torch.cat([cut(enlarged, window, tiles) for window in windows])
        guides = None if guide is None else torch.cat([cut(guide, window, tiles) for window in windows])
        pictures, masks = run_tile(model, tiles, device, guides, detail)
        if preview is not None:
            preview([small.lay(*window, picture) for window, picture in zip(windows, pictures, strict=True)][-1])
        return pictures, masks

    text = None
    if tiling.text_aware and max(full) > tiling.tile:
        text = coarse_text(model, colors, tiling, device)
    picture, mask = run_tiled(run, colors, tiling=tiling, text=text, progress=progress)
    if color_fix != "off" or fidelity:
        plain = resize(colors, full)
        picture = color.match(picture, plain, color_fix) if color_fix != "off" else picture
        picture = torch.lerp(picture, plain, fidelity * (1 - mask)) if fidelity else picture
    size = output_size(height, width, scale)
    if size != full:
        picture, mask = resize(picture, size), resize(mask, size)
    return Upscaled(join_alpha(picture, alpha, channels=image.shape[1]), mask)


def cut(whole: Tensor, window: Window, tiles: Tensor) -> Tensor:
    """The window of the tiles' size out of (B, C, 4h, 4w) -> (1, C, H, W)."""
    i, top, left = window
    y, x = top * SCALE, left * SCALE
    return whole[i : i + 1, :, y : y + tiles.shape[2], x : x + tiles.shape[3]]


@torch.inference_mode()
def coarse_text(model: TADiSR, colors: Tensor, tiling: Tiling, device: torch.device) -> Tensor:
    """The text masks (B, 1, h', w') of pictures (B, 3, h, w) made small enough for one tile: a first look."""
    factor = min(1.0, tiling.on_lr[0] / max(colors.shape[-2:]))
    size = output_size(colors.shape[2], colors.shape[3], factor)
    small = resize(resize(colors, size), (size[0] * SCALE, size[1] * SCALE))
    return torch.cat([run_tile(model, one, device)[1].cpu() for one in small.split(1)])


def upscale_in_memory(
    model: TADiSR,
    image: Tensor,
    *,
    tiling: Tiling = DEFAULT_TILING,
    say: Callable[[str], object] = log.warning,
    **arguments: Any,
) -> Upscaled:
    """`upscale`, and when the GPU's memory does not suffice again with one tile at a time, then with half the tile.

    say: gets one sentence each time. Raises torch.cuda.OutOfMemoryError when the smallest tile is too large.
    """
    while True:
        try:
            return upscale(model, image, tiling=tiling, **arguments)
        except torch.cuda.OutOfMemoryError:
            if tiling.batch == 1 and tiling.tile // 2 < SMALLEST_TILE:
                raise
        if tiling.batch > 1:
            tiling = replace(tiling, batch=1)
        else:
            tiling = replace(tiling, tile=tiling.tile // 2, overlap=min(tiling.overlap, tiling.tile // 4))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"Out of memory: going on with tiles of {tiling.tile}, overlap {tiling.overlap}, {tiling.batch} at once.")


def run_tile(
    model: TADiSR,
    tile: Tensor,
    device: torch.device,
    guide: Tensor | None = None,
    detail: float | None = None,
) -> tuple[Tensor, Tensor]:
    """One batch of upscaled tiles (n, 3, H, W) in [0, 1], any size -> pictures and masks of that size in [0, 1]."""
    height, width = tile.shape[-2:]
    multiple = model.config.multiple
    padded = pad_to_multiple(tile, multiple).to(device)
    output = model(padded) if guide is None else guided(model, padded, pad_to_multiple(guide, multiple).to(device))
    picture, trunk = output.image, model.config.decoder.trunk
    if trunk is not None and output.log_variance is not None:
        kept = trunk.detail if detail is None else detail
        picture = keep_sure_detail(picture, padded, output.log_variance, kept)
    picture = picture[..., :height, :width].float().clamp(0, 1)
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


def checked_guide(guide: Tensor, batch: int) -> Tensor:
    """An edited mask (B or 1, 1, H, W) for so many pictures -> (batch, 1, H, W) on the CPU. Raises ImageError."""
    if len(guide) not in (1, batch) or 0 in guide.shape:
        raise ImageError(f"There are {len(guide)} masks for {batch} pictures: give one, or one for each, not empty.")
    if not torch.isfinite(guide).all():
        raise ImageError("The mask has NaN or infinite values: the node before this one went wrong.")
    return guide.float().cpu().clamp(0, 1).expand(batch, -1, -1, -1)
