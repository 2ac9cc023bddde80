"""Estimate the memory of a training run without running it: python -m train.memory CONFIG [key=value ...]

Weights, gradients and optimizer states follow from the config. What the backward pass keeps is counted by going through
one forward pass and its loss on tensors without memory (torch's meta device), every tensor that autograd saves once, in
the dtypes that CUDA's autocast gives. The sum is an arithmetic of what must be there: the allocator's rounding, cuDNN's
workspaces and the CUDA context (about 1 GiB together) come on top.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from tadisr.console import escape_unknown_characters
from tadisr.errors import TADiSRError
from tadisr.model import TADiSR

from . import config as settings
from .config import FitConfig
from .loop.gradient_checkpointing import checkpoint_blocks
from .loop.setup import prepare_trained, stays_float32
from .losses import Objective

GIB = 2**30
DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Saved:
    """The storages that autograd holds on to, each counted once, those of `known` (the weights) not at all."""

    known: set[int]
    sizes: dict[int, int] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)  # so that no storage's identity is given away twice

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage unless it is known or counted already."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known and storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.alive.append(storage)

    @contextmanager
    def count_saved(self) -> Iterator[None]:
        """Count what autograd saves while the block runs."""

        def pack(tensor: Tensor) -> Tensor:
            self.add(tensor)
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    @property
    def bytes(self) -> int:
        return sum(self.sizes.values())


class SavedAttention(torch.autograd.Function):
    """Fused attention's own bookkeeping: query, key, value, output and one float32 a query, never the square of them."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query.new_empty((*query.shape[:-1], value.shape[-1]))
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError


class Autocast(TorchFunctionMode):
    """CUDA's autocast on tensors without memory: what it lists as its low and its high precision; attention fused."""

    LOW = (F.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm, torch.einsum)
    HIGH = (F.group_norm, F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.cast: dict[int, Tensor] = {}  # a weight is cast once and its copy kept, as autocast does

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        attention = func is F.scaled_dot_product_attention
        if self.dtype is not None and (attention or func in self.LOW):
            args, kwargs = (
                self.cast_value(args, self.dtype),
                {k: self.cast_value(v, self.dtype) for k, v in kwargs.items()},
            )
        elif self.dtype is not None and func in self.HIGH:
            args = self.cast_value(args, torch.float32)
            kwargs = {k: v if k == "dtype" else self.cast_value(v, torch.float32) for k, v in kwargs.items()}
        if attention:
            return SavedAttention.apply(*args[:3], *(kwargs[k] for k in ("query", "key", "value") if k in kwargs))
        return func(*args, **kwargs)

    def cast_value(self, value: Any, dtype: torch.dtype) -> Any:
        """Cast a tensor, or those in a list, to `dtype`; a cast weight is kept, as autocast keeps it."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.cast_value(item, dtype) for item in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not isinstance(value, nn.Parameter) or dtype == torch.float32:
            return value.to(dtype)
        return self.cast.setdefault(id(value), value.to(dtype))


@dataclass(frozen=True)
class Need:
    """Bytes of one process."""

    frozen: int
    trained: int
    gradients: int
    optimizer: int
    ema: int
    activations: int
    block: int  # what the largest block makes again in the backward pass, with gradient checkpointing
    parameters: tuple[int, int]  # frozen, trained

    @property
    def total(self) -> int:
        parts = (self.frozen, self.trained, self.gradients, self.optimizer, self.ema, self.activations, self.block)
        return sum(parts)


def estimate_memory(config: FitConfig, *, distributed: bool = False) -> Need:
    """Estimate one process's memory at its peak, the end of the forward pass. distributed: with DDP's buckets."""
    with torch.device("meta"):
        model = build_empty_model(config)
        weights = [*model.parameters(), *model.buffers()]
        base = [p for p in model.parameters() if not p.requires_grad]
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        saved, block = count_activations(model, config, {w.untyped_storage()._cdata for w in weights})
    return Need(
        frozen=sum(p.nbytes for p in base),
        trained=trained * 4,
        gradients=trained * 4 * (2 if distributed else 1),
        optimizer=sum(
            count_optimizer_bytes(p.numel(), config.optimizer) for p in model.parameters() if p.requires_grad
        ),
        ema=trained * 4 if config.ema else 0,
        activations=saved,
        block=block,
        parameters=(sum(p.numel() for p in base), trained),
    )


def count_optimizer_bytes(size: int, optimizer: str) -> int:
    """Count the bytes of AdamW's two moments of a tensor. In 8 bits bitsandbytes scales each block of 256 values in
    float32, and keeps tensors of fewer than 4096 values in float32.
    """
    return 8 * size if optimizer == "adamw" or size < 4096 else 2 * (size + 4 * -(-size // 256))


def build_empty_model(config: FitConfig) -> TADiSR:
    """Build the model as build_model does, on the meta device."""
    model_config = settings.build_model_config(config.model)
    model = TADiSR(model_config)
    if model_config.lora is None:
        return model.train()
    for part in (model_config.denoiser, "vae") if config.base_precision == "bf16" else ():
        for name, parameter in model.get_submodule(part).named_parameters(prefix=part):
            if not stays_float32(model_config, name, parameter.shape):
                parameter.data = parameter.data.to(torch.bfloat16)
    prepare_trained(model, model_config)
    return model.train()


def count_activations(model: TADiSR, config: FitConfig, known: set[int]) -> tuple[int, int]:
    """Count the bytes that autograd saves in one pass, and the most that one checkpointed block computes again."""
    outer, largest = Saved(known), 0

    def run_block(forward: Callable[..., Any], *args: Any, use_reentrant: bool, **kwargs: Any) -> Any:
        nonlocal largest
        inner = Saved(known)
        with inner.count_saved():
            output = forward(*args, **kwargs)
        inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        for tensor in inputs:
            outer.add(tensor)
        largest = max(largest, inner.bytes)
        return output

    if config.checkpointing:
        checkpoint_blocks(model, run_block)
    size = (config.batch, 3, config.data.crop, config.data.crop)
    upscaled, hr, mask = torch.empty(size), torch.empty(size), torch.empty(size[0], 1, *size[2:])
    objective: nn.Module = Objective(config.loss, random_backbone=True).to("meta")
    known |= {p.untyped_storage()._cdata for p in objective.parameters()}
    with outer.count_saved():
        with Autocast(DTYPES[config.precision]):
            result = model(upscaled)
        logits = None if result.mask_logits is None else result.mask_logits.float()
        with Autocast(None):
            terms = objective(result.image.float(), logits, hr, mask)
    del terms
    return outer.bytes, largest


def format_table(config: FitConfig, counted: Need) -> str:
    """Format the estimate as lines of name and GiB."""
    rows = [
        (f"frozen weights ({counted.parameters[0] / 1e6:.1f} M, {config.base_precision})", counted.frozen),
        (f"trained weights ({counted.parameters[1] / 1e6:.1f} M, fp32)", counted.trained),
        ("their gradients", counted.gradients),
        (f"{config.optimizer}'s states", counted.optimizer),
        ("their average (EMA)", counted.ema),
        (
            f"saved for the backward pass ({config.batch} x {config.data.crop} x {config.data.crop})",
            counted.activations,
        ),
        ("the largest block, made again", counted.block),
        ("sum", counted.total),
    ]
    return "\n".join(f"{name:<60}{size / GIB:8.2f} GiB" for name, size in rows if size)


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.memory", description="Count a run's memory for one process.")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", help="key=value over the file, for instance data.crop=512")
    parser.add_argument("--distributed", action="store_true", help="with the buckets of DDP")
    arguments = parser.parse_intermixed_args(argv)
    try:
        config = settings.read_config(arguments.config, arguments.overrides)
        print(format_table(config, estimate_memory(config, distributed=arguments.distributed)))
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
