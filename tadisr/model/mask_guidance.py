"""Steering the text decoder towards a mask that a user has edited (the paper's outlook, appendix D).

The text stream is moved, at every level before its CDIB, down the gradient of the mask's cross-entropy to the guide,
until the mask is the guide; through the CDIBs the image stream follows.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .joint_decoder import JointParts
from .vae import decode_latent

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

STEPS = 12
KEEP = 1.0  # how much the image as a whole counts against what was painted
UNCHANGED = 2 / 255  # a guide that is nowhere further from the model's own mask than this asks for nothing


def find_offsets(
    vae: AutoencoderKL,
    parts: JointParts,
    latent: Tensor,
    a_tex: Tensor | None,
    skips: list[Tensor] | None,
    guide: Tensor,
    *,
    patch: int,
    strength: float = 1.0,
) -> list[Tensor] | None:
    """Find offsets of the text stream, one (B, c, h, w) per level, by which the mask becomes `guide`.

    guide (B, 1, H, W) in [0, 1]; patch: of the pixel shuffle from logits to the mask; the other arguments as
    `vae.decode` takes them. strength scales the offsets. Returns None where the mask is the guide already. Costs a dozen
    decodings and their gradients, in float32.
    """
    dtype = latent.dtype
    with torch.inference_mode(False), torch.enable_grad():
        vae, parts = gradient_copies(vae, parts)
        latent, guide = latent.float().clone(), guide.float().clone()
        a_tex = None if a_tex is None else a_tex.float().clone()
        skips = None if skips is None else [skip.float().clone() for skip in skips]

        def logits_of(offsets: list[Tensor] | None) -> Tensor:
            _, logits, _ = decode_latent(vae, parts, latent, a_tex, skips, offsets)
            assert logits is not None
            return F.pixel_shuffle(logits, patch)

        streams, own = text_streams(parts, lambda: logits_of(None).detach().sigmoid())
        painted = (guide - own).abs()
        if painted.max() < UNCHANGED:
            return None
        weight = painted / painted.sum() + KEEP / painted.numel()
        units = [stream.std() for stream in streams]
        moves = [torch.zeros_like(stream, requires_grad=True) for stream in streams]
        optimizer = torch.optim.LBFGS(moves, lr=1, max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = logits_of([unit * move for unit, move in zip(units, moves, strict=True)])
            total = (weight * F.binary_cross_entropy_with_logits(logits, guide, reduction="none")).sum()
            total.backward()
            return total

        optimizer.step(loss)  # pyright: ignore[reportArgumentType]
        return [(strength * unit * move).detach().to(dtype) for unit, move in zip(units, moves, strict=True)]


def gradient_copies(vae: AutoencoderKL, parts: JointParts) -> tuple[AutoencoderKL, JointParts]:
    """Copy the decoders in float32: ComfyUI loads under inference mode, whose tensors take part in no gradient."""

    def plain(module: nn.Module) -> nn.Module:
        return copy.deepcopy(module).float().requires_grad_(False)

    vae = copy.copy(vae)
    modules = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    vae._modules = {name: None if module is None else plain(module) for name, module in modules.items()}
    return vae, cast(JointParts, plain(parts))


def text_streams(parts: JointParts, run) -> tuple[list[Tensor], Tensor]:
    """Record what enters each CDIB on the text side while `run` decodes; return it and what `run` returns."""
    assert parts.interactions is not None
    streams: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[1].detach()))
        for block in parts.interactions
    ]
    with torch.no_grad():
        result = run()
    for hook in hooks:
        hook.remove()
    return streams, result
