"""Steering the text decoder towards a mask that a user has edited (the paper's outlook, appendix D).

The decoders themselves are asked: the text stream is moved, at every level before its CDIB, down the gradient of the
mask's cross-entropy to the guide, until it says what the user painted; through the CDIBs the image stream follows.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .joint_decoder import JointParts
from .network import Output, TADiSR
from .vae import decode

STEPS = 12
KEEP = 1.0  # how much the picture as a whole counts against what was painted
UNCHANGED = 2 / 255  # a guide that is nowhere further from the model's own mask than this asks for nothing


def steer(
    model: TADiSR,
    latent: Tensor,
    a_tex: Tensor | None,
    skips: list[Tensor] | None,
    guide: Tensor,
    *,
    strength: float = 1.0,
) -> list[Tensor] | None:
    """Offsets of the text stream for `TADiSR.decode`, by which the mask becomes `guide` (B, 1, H, W) in [0, 1].

    The other arguments as `decode` takes them. strength 0 to 1 scales the offsets; None where nothing is to be
    moved. Costs a dozen decodings and their gradients, in float32.
    """
    if strength <= 0:
        return None
    with torch.inference_mode(False), torch.enable_grad():
        vae, parts = gradient_copies(model)
        latent, guide = latent.float().clone(), guide.float().clone()
        a_tex = None if a_tex is None else a_tex.float().clone()
        skips = None if skips is None else [skip.float().clone() for skip in skips]

        def logits_of(offsets: list[Tensor] | None) -> Tensor:
            _, logits, _ = decode(vae, parts, latent, a_tex, skips, offsets)
            assert logits is not None
            return F.pixel_shuffle(logits, model.config.patch)

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
        return [(strength * unit * move).detach().to(model.dtype) for unit, move in zip(units, moves, strict=True)]


def guided(model: TADiSR, image: Tensor, guide: Tensor, *, strength: float = 1.0) -> Output:
    """Run the whole network (`TADiSR.forward`), its text decoder steered towards `guide` (B, 1, H, W).

    A model that was trained with guides takes it in one pass, whatever the strength above 0.
    """
    if takes_guide(model):
        return model(image, guide=guide if strength > 0 else None)
    latent, skips = model.encode(image)
    latent, responses = model.denoise(latent)
    a_tex = model.project(latent, responses)
    joint = model.config.decoder.joint
    offsets = steer(model, latent, a_tex, skips, guide, strength=strength) if joint else None
    picture, logits, log_variance = model.decode(latent, a_tex, skips, image, offsets)
    return Output(picture, logits, latent, responses, log_variance)


def takes_guide(model: TADiSR) -> bool:
    """Tell whether the model has an input for a guide, so that no gradient steps are needed."""
    return model.decoder.trunk is not None and model.decoder.trunk.guide is not None


def gradient_copies(model: TADiSR):
    """The decoders in float32, apart: a host loads under inference mode, whose tensors no gradient may pass."""

    def plain(module: nn.Module) -> nn.Module:
        return copy.deepcopy(module).float().requires_grad_(False)

    vae = copy.copy(model.vae)
    parts = {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}
    vae._modules = {name: None if module is None else plain(module) for name, module in parts.items()}
    return vae, cast(JointParts, plain(model.decoder))


def text_streams(parts: JointParts, run) -> tuple[list[Tensor], Tensor]:
    """What enters each CDIB on the text side while `run` decodes, and what it returns."""
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
