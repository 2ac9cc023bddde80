"""Tensors and latents between ComfyUI's layouts and the library's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management as mm
import torch
from comfy_api.latest import io
from torch import Tensor

from ...tadisr.inference.staged import Source
from ...tadisr.inference.upscale import Upscaled

EMPTY = (64, 64)  # size of the all-zero mask that Load Image gives for an image without transparency
OURS = "tadisr"  # under this key a LATENT carries our `stages.Source`


def source_of(latent: dict[str, Any]) -> Source | None:
    """Return the `Source` that a TADiSR latent carries; None for a latent from elsewhere."""
    return latent.get(OURS)


def from_comfy(image: Tensor) -> Tensor:
    """Convert IMAGE (B, H, W, C) to (B, C, H, W)."""
    return image.movedim(-1, 1)


def to_comfy(image: Tensor) -> Tensor:
    """Convert (B, C, H, W) to IMAGE (B, H, W, C)."""
    return to_host(image.movedim(1, -1).contiguous())


def to_host(tensor: Tensor) -> Tensor:
    """Move a tensor to the device that ComfyUI keeps tensors between nodes on."""
    return tensor.to(mm.intermediate_device())


def from_mask(mask: Tensor) -> Tensor:
    """Convert MASK (B, H, W), or (H, W) as some nodes give it, to (B, 1, H, W)."""
    return mask.reshape(-1, 1, *mask.shape[-2:])


def guide_of(mask: Tensor | None, tell: Callable[[str], object]) -> Tensor | None:
    """Convert an edited mask to (B, 1, H, W); None for none, and for the empty one of an image without transparency, with a
    message.
    """
    if mask is None:
        return None
    if mask.shape[-2:] == EMPTY and not mask.any():
        tell("The mask is the empty one that Load Image gives for an image without transparency: it is no edit.")
        return None
    return from_mask(mask)


def to_mask(mask: Tensor) -> Tensor:
    """Convert (B, 1, H, W) to MASK (B, H, W)."""
    return to_host(mask[:, 0])


def to_outputs(result: Upscaled) -> io.NodeOutput:
    """Convert a result to IMAGE, MASK of the text and MASK of the certainty; without one it is all 0."""
    certainty = torch.zeros_like(result.mask) if result.certainty is None else result.certainty
    return io.NodeOutput(to_comfy(result.image), to_mask(result.mask), to_mask(certainty))
