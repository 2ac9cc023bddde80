"""The VAE, walked by hand: the encoder hands out the input of each down block for the decoders, and the image decoder and
the text segmentation decoder run side by side, tied by CDIBs (Eq. 5-6).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..config import ModelConfig
from .joint_decoder import JointParts

if TYPE_CHECKING:  # diffusers takes seconds to import: it is imported where a network is built
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

SEED = 0  # of a sampled latent: same input, same bytes out


def scale_latent(config: Mapping[str, Any], latent: Tensor) -> Tensor:
    """Scale a latent as the VAE of this config gives it to what the denoiser takes."""
    shift = config.get("shift_factor") or 0
    return (latent - shift if shift else latent) * config["scaling_factor"]


def unscale_latent(config: Mapping[str, Any], latent: Tensor) -> Tensor:
    """Invert `scale_latent`."""
    shift = config.get("shift_factor") or 0
    latent = latent / config["scaling_factor"]
    return latent + shift if shift else latent


def encode_image(vae: AutoencoderKL, image: Tensor, kind: str = "mode") -> tuple[Tensor, list[Tensor]]:
    """Encode z_L = E(x_L), Sec. 3.1: the mode of the posterior, or a sample of it with constant noise.

    image (B, C, H, W) in [-1, 1] -> the scaled latent (B, c, H/f, W/f), and the input of each down block,
    finest first.
    """
    encoder = vae.encoder
    hidden = encoder.conv_in(image)
    skips = []
    for block in encoder.down_blocks:
        skips.append(hidden)
        hidden = block(hidden)
    hidden = encoder.mid_block(hidden)
    hidden = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(hidden)))
    if vae.quant_conv is not None:
        hidden = vae.quant_conv(hidden)
    latent, log_variance = hidden.chunk(2, dim=1)
    if kind == "sample":
        noise = torch.randn(latent.shape[1:], generator=torch.Generator().manual_seed(SEED), device="cpu").to(latent)
        latent = latent + (0.5 * log_variance.clamp(-30, 20)).exp() * noise
    return scale_latent(vae.config, latent), skips


def decode_latent(
    vae: AutoencoderKL,
    parts: JointParts,
    latent: Tensor,
    a_tex: Tensor | None,
    skips: list[Tensor] | None,
    offsets: list[Tensor] | None = None,
    picture: Tensor | None = None,
    guide: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Decode x_H, s = D(z_H, a_tex).

    latent z_H (B, c, h, w), scaled; a_tex (B, width, h, w), None without the joint decoders and where the image stream
    itself starts the text decoder; skips as `encode` gives them, None for a latent of foreign origin; offsets: one for
    every level of the text stream, added before its CDIB (`mask_guidance.find_offsets`); image, guide: what a trunk takes
    (`Trunk.forward`) -> image (B, C, H, W) in about [-1, 1], logits of the mask or None, log variance or None.
    """
    decoder = vae.decoder
    z = unscale_latent(vae.config, latent)
    if vae.post_quant_conv is not None:
        z = vae.post_quant_conv(z)
    z = decoder.mid_block(decoder.conv_in(z), None)
    a, text = z if parts.from_image else a_tex, parts.text
    if text is not None and text.mid_block is not None:
        a = text.mid_block(a)
    for level, block in enumerate(decoder.up_blocks):
        if parts.skips is not None and skips is not None and level > 0:
            z = z + parts.skips[level - 1](skips[-1 - level])
        if text is not None and parts.interactions is not None:
            if offsets is not None and a is not None:
                a = a + offsets[level]
            z, a = parts.interactions[level](z, a)
            a = text.up_blocks[level](a)
        z = block(z, None)
    log_variance = None
    if parts.trunk is None:
        image = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(z)))
    else:
        assert picture is not None
        image, a, log_variance = parts.trunk(picture, z, a, guide)
    return image, text.out(a) if text is not None else None, log_variance


def build_vae(config: ModelConfig) -> AutoencoderKL:
    """Build the base's autoencoder with random weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    return AutoencoderKL.from_config(config.vae)  # pyright: ignore[reportReturnType, reportAttributeAccessIssue]


def drop_last_level(vae: AutoencoderKL) -> None:
    """Remove what a trunk replaces from the VAE's decoder: its last up block and its output layers."""
    decoder = vae.decoder
    decoder.up_blocks = decoder.up_blocks[:-1]  # pyright: ignore[reportAttributeAccessIssue]
    del decoder.conv_norm_out, decoder.conv_act, decoder.conv_out
