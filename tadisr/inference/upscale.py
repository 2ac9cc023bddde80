"""Upscale images and find their text: enlarge, tile, run the network, blend, correct the colours.

The result is added up at the size asked for, in place or in strips from top to bottom: beside input and output only a
few tiles are held.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from ..checkpoints import adapter
from ..checkpoints.base_model import load_base
from ..errors import CheckpointError
from ..model import TADiSR
from ..model.precision import compute_type
from ..ocr import Reader
from ..prompt import read_prompt
from .mask_edits import merge_edits
from .run_tile import check_guide
from .tiling import Tiling
from .upscaling import Progress, Upscaling

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

COMPACT = Path(__file__).parents[1] / "weights" / "compact.safetensors"


class Options(TypedDict, total=False):
    """Parameters of `upscale` that its variants pass on."""

    scale: float
    enlarged: Tensor | None
    guide: Tensor | None
    fidelity: float
    detail: float | None
    device: torch.device | None
    progress: Progress | None
    preview: Callable[[Tensor], object] | None


@dataclass(frozen=True)
class Upscaled:
    """float32 on the CPU, in [0, 1].

    The mask is all zero for a model without the joint decoders; certainty is None for one without that output.
    """

    image: Tensor  # (B, C, sH, sW), as many channels as came in
    mask: Tensor  # (B, 1, sH, sW), the probability of text
    certainty: Tensor | None = None  # (B, 1, sH, sW), 1 where the network is sure of what it drew


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
    """Load a model ready to run: the compact one that ships with the pack, or any checkpoint.

    base, vae: the frozen base of an adapter, as `load_base` takes it: a folder, or a file each. dtype: of the weights,
    None: float32; with float8_e4m3fn the denoiser's matrices are stored in it and computed in bf16 or fp16 on a GPU, in
    fp32 on a CPU. strength: of the adapter's LoRA. prompt: a prompt file that replaces the one it carries. Raises
    CheckpointError.
    """
    path = COMPACT if path is None else Path(path)
    config = adapter.read_config(path)
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
    tiling: Tiling | None = None,
    color_fix: str = "off",
    text_guard: Reader | None = None,
    say: Callable[[str], object] = log.info,
    allocate: Callable[[tuple[int, ...]], Tensor] = torch.zeros,
    **options: Unpack[Options],
) -> Upscaled:
    """Upscale a batch of images tile by tile.

    image: (B, C, h, w) in [0, 1], what lies outside is clamped, or levels in uint8 or uint16; C is 1 (grey), 2 (grey,
    alpha), 3 or 4 (RGBA). RGB of three equal channels stays grey. Colours are grown into transparent parts first; where
    alpha is not constant it is upscaled as an image of its own, and its text joins the mask.
    tiling: None: tiles of 768 with the overlap that the model's config names.
    scale: 1 to 4; the network magnifies by 4, less is an exact resize of that. enlarged (B, 3, 4h, 4w): the image
    already brought to that size, fed as it is instead of a bicubic enlargement. guide (B or 1, 1, h', w') in [0, 1]:
    an edited text mask of any size that steers the decoders where it differs from the model's own by more than resizing
    does; a model whose trunk takes no guide then runs twice. fidelity: 0 to 1, how much of the input outside the text
    stays as it was, only enlarged. detail: 0 to 1, how much of what a model with a certainty output is not sure of is
    kept (`keep_sure_detail`); None: the model's default. color_fix: off, adain, wavelet or lab, against the input.
    text_guard: an OCR engine; lines that it reads differently in the result than in the plain enlargement are blended
    back (`guard_text`), and how many is given to `say`.
    progress(done, total) counts tiles after every batch of them; raise inside it to cancel. preview: gets a small
    (1, 3, h", w") of what is done so far, just before each call of progress. allocate: makes the result's tensors,
    zeros of a shape.
    Raises ImageError, ConfigError.
    """
    guide, edited = options.get("guide"), None
    if guide is not None and not model.takes_guide:  # steering costs dozens of decodings: only for what was edited
        guide = check_guide(guide, len(image))
        plain = upscale(
            model, image, tiling=tiling, color_fix=color_fix, text_guard=text_guard, say=say, allocate=allocate,
            **options | {"guide": None},
        )  # fmt: skip
        merged = merge_edits(plain.mask, guide)
        if merged is None:
            return plain
        del plain
        options["guide"], edited = merged
    job = Upscaling(model, image, tiling=tiling, color_fix=color_fix, edited=edited, **options)
    pixels = allocate((len(image), *job.size, image.shape[1]))
    maps = allocate((len(image), *job.size, job.channels[1]))
    for strip in job.strips((pixels, maps)):
        if color_fix == "off":
            job.finish(strip)
        if strip.top + len(strip.maps) < job.size[0]:
            continue
        if color_fix != "off":
            job.correct(strip.image, pixels[strip.image], maps[strip.image])
        if text_guard is not None:
            say(job.guard(strip.image, pixels[strip.image], text_guard))
    maps = maps.permute(0, 3, 1, 2)
    return Upscaled(pixels.permute(0, 3, 1, 2), maps[:, :1], maps[:, 1:] if model.gives_certainty else None)
