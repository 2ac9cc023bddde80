"""LoRA on a frozen base: through peft while it trains, merged as W + (alpha/r) B A to run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ..config import LoRAConfig
from ..errors import CheckpointError
from .network import TADiSR
from .precision import FP8, Follow, LowRank

ADAPTER = "default"


def add_lora(model: TADiSR, config: LoRAConfig) -> None:
    """Add trainable LoRA layers to the denoiser and the image decoder (Fig. 2), and freeze the base.

    The config may name the encoder as well, and layers of the denoiser that are trained whole.
    """
    from peft import LoraConfig

    model.denoiser.requires_grad_(False)
    model.vae.requires_grad_(False)
    for module, prefix, rank, targets in (
        (model.denoiser, "", config.unet_rank, config.unet_targets),
        (model.vae, "" if config.encoder else "decoder.", config.vae_rank, config.vae_targets),
    ):
        names = list_targets(module, prefix, targets)
        module.add_adapter(LoraConfig(r=rank, lora_alpha=config.alpha, target_modules=names), adapter_name=ADAPTER)  # pyright: ignore[reportArgumentType]
    for name in config.unet_whole:
        model.denoiser.get_submodule(name).requires_grad_(True)


def list_targets(module: nn.Module, prefix: str, suffixes: tuple[str, ...]) -> list[str]:
    return [
        name
        for name, layer in module.named_modules()
        if name.startswith(prefix)
        and isinstance(layer, (nn.Linear, nn.Conv2d))
        and any(name == suffix or name.endswith("." + suffix) for suffix in suffixes)
    ]


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's LoRA tensors as `<layer>.lora_A.weight`, `<layer>.lora_B.weight`."""
    marker = f".{ADAPTER}.weight"
    return {
        name.replace(marker, ".weight"): tensor
        for name, tensor in module.state_dict().items()
        if ".lora_" in name and name.endswith(marker)
    }


@dataclass(frozen=True)
class Whole:
    """A parameter that was trained in full, in place of the base's."""

    value: Tensor
    strength: float


@torch.no_grad()
def merge_update(module: nn.Module, name: str, update: LowRank | Whole) -> None:
    """Change the parameter of this name in place."""
    parameter = module.get_parameter(name)
    if isinstance(update, Whole):
        value = update.value.to(parameter.device, torch.float32)
        parameter.copy_(value if update.strength == 1 else parameter.float().lerp(value, update.strength))
    elif parameter.dtype == FP8:
        cast(Follow, module.get_submodule(name.removesuffix(".weight"))).update = update
    else:
        parameter.copy_(update.add_to(parameter.float()))


def read_updates(
    module: nn.Module, state: dict[str, Tensor], alpha: float, where: str, *, strength: float = 1.0
) -> Iterator[tuple[str, LowRank]]:
    """Yield (weight's name, its update) for every pair in `state`. Raises CheckpointError for a pair that does not fit."""
    for name, update in read_pairs(state, alpha, where, strength=strength):
        check_fit(module, name, update, where)
        yield f"{name}.weight", update


def read_pairs(
    state: dict[str, Tensor], alpha: float, where: str, *, strength: float = 1.0
) -> Iterator[tuple[str, LowRank]]:
    """Yield (layer's name, its update) for every pair in `state`, emptying it. Raises CheckpointError for half a pair."""
    for name in sorted({name.rsplit(".lora_", 1)[0] for name in state}):
        try:
            a, b = state.pop(f"{name}.lora_A.weight"), state.pop(f"{name}.lora_B.weight")
        except KeyError as error:
            raise CheckpointError(f"{where}: the LoRA of {name} has no partner ({error}).") from error
        yield name, LowRank(a, b, strength * alpha / len(a))
    if state:
        raise CheckpointError(f"{where} has LoRA tensors of an unknown kind, the first {next(iter(state))}.")


def check_fit(module: nn.Module, name: str, update: LowRank, where: str) -> None:
    """Raise CheckpointError if there is no layer for an update, or one of another shape."""
    try:
        shape = tuple(module.get_submodule(name).get_parameter("weight").shape)
    except AttributeError as error:
        raise CheckpointError(f"{where}: the LoRA of {name} has no layer in the base ({error}).") from error
    made = (len(update.b), *update.a.shape[1:])
    if made != shape:
        raise CheckpointError(f"{where}: the LoRA of {name} is {made}, the base's layer {shape}: another base.")
