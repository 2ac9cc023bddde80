"""The VAE encoder, walked by hand so that what enters each of its down blocks can skip to the decoders."""

from __future__ import annotations

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor


def encode(vae: AutoencoderKL, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """z_L = E(x_L), Sec. 3.1: the mode of the posterior, never a random sample.

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
    mode, _ = hidden.chunk(2, dim=1)
    return mode * vae.config["scaling_factor"], skips
