"""Gradient checkpointing for the whole network, whose VAE decoder runs block by block and whose U-Net is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tadisr.model import TADiSR
from tadisr.model.text_attention import Recorder, Recording

BLOCKS: tuple[type[nn.Module], ...] = (BasicTransformerBlock, ResnetBlock2D, Attention)
try:  # of CogView4, which an older diffusers lacks
    from diffusers.models.transformers.transformer_cogview4 import CogView4TransformerBlock
except ImportError:
    pass
else:
    BLOCKS += (CogView4TransformerBlock,)


def checkpoint_blocks(model: TADiSR, run: Any = checkpoint) -> list[str]:
    """Keep only the input of each block for the backward pass; return the names of the blocks. run: torch's checkpoint."""
    names: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in names)
        if isinstance(module, BLOCKS) and not inside:
            names.append(name)
            module.forward = _checkpointed(module.forward, run)  # pyright: ignore[reportAttributeAccessIssue]
    keep_recording(model.recorder)
    return names


def _checkpointed(forward: Any, run: Any) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return run(forward, *args, use_reentrant=False, **kwargs)

    return wrapped


class Nowhere(list[Tensor]):
    """A list that drops appended responses: recomputed layers were already recorded in the forward pass."""

    def append(self, _response: Tensor) -> None:
        return


def keep_recording(recorder: Recorder) -> None:
    """Record responses also when checkpointed layers are computed again, so that both passes have one graph."""
    listen = recorder.record_responses

    @contextmanager
    def lasting(positions: Tensor, size: tuple[int, int]) -> Iterator[list[Tensor]]:
        with listen(positions, size) as maps:
            yield maps
        recorder.recording = Recording(positions, size, Nowhere())
        for processor in recorder.processors:
            processor.recorder = recorder

    recorder.record_responses = lasting  # pyright: ignore[reportAttributeAccessIssue]
