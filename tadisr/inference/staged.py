"""The way of the data one stage at a time, for whole images: encode, denoise, decode. What the staged nodes chain.

Latents are held as ComfyUI holds them: `samples` (B, c, h, w), not scaled, on the CPU. What else a stage knows rides
along in `Source` and `Attention`, so that a latent may be changed on its way, or come from elsewhere altogether.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE
from ..errors import ImageError
from ..images import grow_colors, join_alpha, output_size, pad_to_multiple, resize_image, split_alpha
from ..model import TADiSR
from ..model.vae import scale_latent, unscale_latent
from ..prompt import EncodedPrompt, with_prompt
from .latent_matching import match_latent
from .mask_edits import merge_edits
from .run_tile import check_guide, check_image, check_share, finish_tile, require_finite
from .upscale import Progress, Upscaled

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """The data of the source image that travels with a latent. float32 on the CPU, images in [0, 1]."""

    latent: Tensor  # (B, c, h', w'): as it left the encoder
    upscaled: Tensor  # (B, 3, H, W): the upscaled input, padded to the model's multiple
    skips: list[Tensor]  # of the encoder, finest first; empty once the latent has changed its size
    alpha: Tensor | None  # (B, 1, h, w) of the LR image
    channels: int  # of the LR image
    size: tuple[int, int]  # of the upscaled input without its padding
    target: tuple[int, int]  # of the result


@dataclass(frozen=True)
class Attention:
    """a_tex^1..M: every chosen layer's responses to the word, each (B, heads, h', w'), float32 on the CPU."""

    latent: Tensor  # (B, c, h', w'): z_H, as it left the U-Net
    source: Source | None  # of the latent it was made from; None for one from elsewhere
    responses: list[Tensor]
    layers: list[str]  # their names in the U-Net, such as down_blocks.1.attentions.0.transformer_blocks.0.attn2
    padded: tuple[int, int]  # pixels of the image that they were recorded on, padding included
    size: tuple[int, int]  # of it without


@torch.inference_mode()
def encode(
    model: TADiSR, image: Tensor, *, scale: float = SCALE, progress: Progress | None = None
) -> tuple[Tensor, Source]:
    """Encode images (B, C, h, w) in [0, 1] -> samples, and what `decode` needs of the image. Raises as `upscale` does."""
    check_image(image, scale)
    height, width = image.shape[-2:]
    colors, alpha = split_alpha(image.float().cpu().clamp(0, 1))
    if alpha is not None:
        colors = grow_colors(colors, alpha)
    size = (height * SCALE, width * SCALE)
    upscaled = pad_to_multiple(resize_image(colors, size), model.config.multiple)
    done = run_one_by_one(len(image), progress, lambda i: _encode(model, upscaled[i : i + 1]))
    samples = torch.cat([latent for latent, _ in done])
    skips = [torch.cat(level) for level in zip(*(skips for _, skips in done), strict=True)]
    return samples, Source(samples, upscaled, skips, alpha, image.shape[1], size, output_size(height, width, scale))


def _encode(model: TADiSR, upscaled: Tensor) -> tuple[Tensor, list[Tensor]]:
    latent, skips = model.encode(upscaled.to(model.device))
    require_finite(model, latent)
    return unscale_latent(model.config.vae, latent.float()).cpu(), [skip.float().cpu() for skip in skips]


@torch.inference_mode()
def denoise(
    model: TADiSR,
    samples: Tensor,
    source: Source | None = None,
    *,
    prompt: EncodedPrompt | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Attention]:
    """Denoise any latent of the model's VAE by Eq. 1 -> samples of the same shape, and the layers' responses.

    source: what `encode` gave; the latent may since have been changed by others. prompt: another one for this time.
    Raises ImageError for a latent of another VAE, and for one whose image cannot be told any more; CheckpointError
    for a prompt of another base.
    """
    check_latent(model, samples)
    if source is not None:
        rows = match_latent(source.latent, samples)
        source = None if rows is None else pick_images(model, source, rows, samples)
    with with_prompt(model, prompt):
        done = run_one_by_one(len(samples), progress, lambda i: _denoise(model, samples[i : i + 1]))
    latent = torch.cat([z for z, _ in done])
    responses = [torch.cat(layer) for layer in zip(*(recorded for _, recorded in done), strict=True)]
    padded = latent_pixels(model, samples)
    size = padded if source is None else source.size
    return latent, Attention(latent, source, responses, model.recorder.layers, padded, size)


def _denoise(model: TADiSR, samples: Tensor) -> tuple[Tensor, list[Tensor]]:
    config = model.config.vae
    latent, responses = model.denoise(scale_latent(config, samples.to(model.device).float()).to(model.dtype))
    require_finite(model, latent)
    return unscale_latent(config, latent.float()).cpu(), [response.float().cpu() for response in responses]


@torch.inference_mode()
def decode(
    model: TADiSR,
    samples: Tensor,
    attention: Attention,
    *,
    guide: Tensor | None = None,
    strength: float = 1.0,
    detail: float | None = None,
    progress: Progress | None = None,
) -> Upscaled:
    """Decode to image, text mask and certainty (Eq. 5-6), without skips for a latent made or sampled elsewhere.

    attention: from the `denoise` that gave the samples; they may since have been changed by others. guide (B or 1, 1,
    H, W) in [0, 1]: an edited text mask of any size, which the text decoder is steered towards, by strength 0 to 1,
    where it differs from the model's own by more than resizing does.
    detail: as `upscale` takes it. Raises ConfigError for a detail outside 0 to 1, ImageError for a latent of another VAE
    and for one that a residual model has no image for.
    """
    check_latent(model, samples)
    check_share("detail", detail)
    padded = latent_pixels(model, samples)
    attention = follow_latent(model, attention, samples)
    source = attention.source
    if source is None and model.config.residual:
        raise ImageError(
            f"The {model.config.name} model adds to its own upscaled input, which this latent does not bring: it was made "
            "elsewhere, or cut, joined or sampled anew on its way. Do that to the image before TADiSR Encode, or use a "
            "model on a base such as Kolors."
        )
    size, target = (padded, padded) if source is None else (source.size, source.target)
    if guide is not None:
        guide = check_guide(guide, len(samples))

    def drawn(i: int, own: Tensor | None) -> Tensor | None:
        """Fit the guide to the padded image; None where it is the model's own mask, which asks for nothing."""
        if guide is None or strength <= 0:
            return None
        one = guide[i : i + 1].to(model.device)
        fitted = resize_image(one, size)
        if own is not None:
            merged = merge_edits(own[..., : size[0], : size[1]], one)
            if merged is None:
                return None
            fitted, _ = merged
        return F.pad(fitted, (0, padded[1] - size[1], 0, padded[0] - size[0]), mode="replicate")

    def one(i: int) -> tuple[Tensor, Tensor]:
        place = {"device": model.device, "dtype": model.dtype}
        latent = scale_latent(model.config.vae, samples[i : i + 1].to(model.device).float()).to(model.dtype)
        a_tex = model.project(latent, [maps[i : i + 1].to(**place) for maps in attention.responses])
        upscaled, skips = None, None
        if source is not None:
            upscaled = source.upscaled[i : i + 1].to(model.device)
            skips = [skip[i : i + 1].to(**place) for skip in source.skips] or None
        parts = (latent, a_tex, skips, upscaled)
        if model.takes_guide:
            image, logits, log_variance = model.decode(*parts, drawn(i, None))
        else:  # steering costs dozens of decodings: plain first, and steered only where the mask was edited
            image, logits, log_variance = model.decode(*parts)
            painted = None if logits is None else drawn(i, logits.float().sigmoid())
            if painted is not None:
                image, logits, log_variance = model.decode(*parts, painted, strength=strength)
        results = finish_tile(model, image, logits, log_variance, upscaled, detail)
        image, maps = (result[..., : size[0], : size[1]].cpu() for result in results)
        return image, maps

    done = run_one_by_one(len(samples), progress, one)
    picture, maps = torch.cat([image for image, _ in done]), torch.cat([maps for _, maps in done])
    if target != size:
        picture, maps = resize_image(picture, target), resize_image(maps, target)
    if source is not None:
        picture = join_alpha(picture, source.alpha, channels=source.channels)
    return Upscaled(picture, maps[:, :1], maps[:, 1:] if model.gives_certainty else None)


def run_one_by_one(count: int, progress: Progress | None, run: Callable[[int], T]) -> list[T]:
    """Run each image of a batch on its own, so that memory does not grow with the batch."""
    done = []
    for i in range(count):
        done.append(run(i))
        if progress is not None:
            progress(i + 1, count)
    return done


def check_latent(model: TADiSR, samples: Tensor) -> None:
    """Raise ImageError for what is not a latent of the model's VAE."""
    channels = model.config.vae["latent_channels"]
    if samples.ndim != 4 or samples.shape[1] != channels or 0 in samples.shape:
        raise ImageError(
            f"A latent of shape {tuple(samples.shape)} does not fit the {model.config.name} model: expected "
            f"(B, {channels}, h, w). Encode the image with the same model."
        )
    if not torch.isfinite(samples).all():
        raise ImageError("The latent has NaN or infinite values: the node before this one went wrong.")


def latent_pixels(model: TADiSR, samples: Tensor) -> tuple[int, int]:
    """Compute height and width of the image that a latent stands for."""
    return samples.shape[2] * model.config.latent_factor, samples.shape[3] * model.config.latent_factor


def follow_latent(model: TADiSR, attention: Attention, samples: Tensor) -> Attention:
    """Adapt attention and source to a latent that other nodes edited. Raises ImageError if it is of other images."""
    rows = match_latent(attention.latent, samples)
    source = attention.source
    if rows is not None:
        source = None if source is None else pick_images(model, source, rows, samples)
    else:  # sampled anew, or made elsewhere: by its order
        count, recorded = len(samples), len(attention.latent)
        if count % recorded:
            raise ImageError(
                f"The text attention is of {recorded} images, the latent of {count} others: chain them from one Denoise."
            )
        rows, source = list(range(recorded)) * (count // recorded), None
    return replace(attention, source=source, responses=[maps[rows] for maps in attention.responses])


def pick_images(model: TADiSR, source: Source, rows: list[int], samples: Tensor) -> Source:
    """Pick images of the source, resized as their latent is and then without skips.

    Raises ImageError when the latent was stretched.
    """
    source = replace(
        source,
        latent=source.latent[rows],
        upscaled=source.upscaled[rows],
        skips=[skip[rows] for skip in source.skips],
        alpha=None if source.alpha is None else source.alpha[rows],
    )
    old, new = source.upscaled.shape[-2:], latent_pixels(model, samples)
    if old == new:
        return source
    vertical, horizontal = new[0] / old[0], new[1] / old[1]
    one = model.config.latent_factor
    if abs(new[0] - old[0] * horizontal) > one and abs(new[1] - old[1] * vertical) > one:
        raise ImageError(
            f"The latent is {new[1]}x{new[0]} pixels, its image {old[1]}x{old[0]}: it was stretched on its way. "
            "Stretch the image before TADiSR Encode instead."
        )

    def scaled(size: tuple[int, int]) -> tuple[int, int]:
        return max(1, round(size[0] * vertical)), max(1, round(size[1] * horizontal))

    return replace(
        source,
        upscaled=resize_image(source.upscaled, new),
        skips=[],
        size=scaled(source.size),
        target=scaled(source.target),
    )
