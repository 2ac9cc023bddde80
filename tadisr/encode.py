"""The VAE encoder, walked by hand so that what enters each of its down blocks can skip to the decoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

SEED = 0  # of a sampled latent: same input, same bytes out


def scaled(config: Mapping[str, Any], latent: Tensor) -> Tensor:
    """A latent as a VAE of this config gives it -> as the denoiser takes it."""
    shift = config.get("shift_factor") or 0
    return (latent - shift if shift else latent) * config["scaling_factor"]


def unscaled(config: Mapping[str, Any], latent: Tensor) -> Tensor:
    """The inverse of `scaled`."""
    shift = config.get("shift_factor") or 0
    latent = latent / config["scaling_factor"]
    return latent + shift if shift else latent


def encode(vae: AutoencoderKL, image: Tensor, kind: str = "mode") -> tuple[Tensor, list[Tensor]]:
    """z_L = E(x_L), Sec. 3.1: the mode of the posterior, or a sample of it whose noise is always the same.

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
    return scaled(vae.config, latent), skips
