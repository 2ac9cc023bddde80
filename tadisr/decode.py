"""Image decoder and text segmentation decoder, run side by side and tied by CDIBs (Eq. 5-6)."""

from __future__ import annotations

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from .decoder import JointParts
from .encode import unscaled


def decode(
    vae: AutoencoderKL,
    parts: JointParts,
    latent: Tensor,
    a_tex: Tensor | None,
    skips: list[Tensor] | None,
    offsets: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """x_H, s = D(z_H, a_tex).

    latent z_H (B, c, h, w), scaled; a_tex (B, width, h, w), None without the joint decoders and where the image stream
    itself starts the text decoder; skips as `encode` gives them, None for a latent of foreign origin; offsets: one for
    every level of the text stream, added before its CDIB (`guide.steer`) -> picture (B, C, H, W) in about [-1, 1],
    logits of the mask or None.
    """
    decoder = vae.decoder
    z = unscaled(vae.config, latent)
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
    image = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(z)))
    return image, text.out(a) if text is not None else None
