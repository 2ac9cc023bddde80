"""LoRA on a frozen base: through peft while it trains, merged as W + (alpha/r) B A to run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import LoRAConfig
from .errors import CheckpointError
from .model import TADiSR

ADAPTER = "default"


def add_lora(model: TADiSR, config: LoRAConfig) -> None:
    """Put trainable LoRA layers on the denoiser and the image decoder (Fig. 2); everything of the base is frozen."""
    from peft import LoraConfig

    model.denoiser.requires_grad_(False)
    model.vae.requires_grad_(False)
    for module, prefix, rank, targets in (
        (model.denoiser, "", config.unet_rank, config.unet_targets),
        (model.vae, "decoder.", config.vae_rank, config.vae_targets),
    ):
        names = _targets(module, prefix, targets)
        module.add_adapter(LoraConfig(r=rank, lora_alpha=config.alpha, target_modules=names), adapter_name=ADAPTER)  # pyright: ignore[reportArgumentType]


def _targets(module: nn.Module, prefix: str, suffixes: tuple[str, ...]) -> list[str]:
    return [
        name
        for name, layer in module.named_modules()
        if name.startswith(prefix)
        and isinstance(layer, (nn.Linear, nn.Conv2d))
        and any(name == suffix or name.endswith("." + suffix) for suffix in suffixes)
    ]


def lora_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's LoRA tensors as `<layer>.lora_A.weight`, `<layer>.lora_B.weight`."""
    marker = f".{ADAPTER}.weight"
    return {
        name.replace(marker, ".weight"): tensor
        for name, tensor in module.state_dict().items()
        if ".lora_" in name and name.endswith(marker)
    }


def product(a: Tensor, b: Tensor) -> Tensor:
    """B A as a weight of the layer: Linear A (r, in), B (out, r); convolution A (r, in, k, k), B (out, r, 1, 1)."""
    if a.ndim == 2:
        return b @ a
    return torch.einsum("or,rikl->oikl", b.flatten(1), a)


@torch.no_grad()
def merge_lora(module: nn.Module, state: dict[str, Tensor], alpha: float, where: str) -> None:
    """W += (alpha / r) B A in place, for every pair in `state`. Raises CheckpointError for one that does not fit."""
    names = sorted({name.rsplit(".lora_", 1)[0] for name in state})
    for name in names:
        try:
            a, b = state.pop(f"{name}.lora_A.weight"), state.pop(f"{name}.lora_B.weight")
            weight = module.get_parameter(f"{name}.weight")
        except (KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{where}: the LoRA of {name} has no partner or no layer in the base ({error})."
            ) from error
        delta = product(a.to(weight.device, torch.float32), b.to(weight.device, torch.float32)) * (alpha / len(a))
        if delta.shape != weight.shape:
            raise CheckpointError(
                f"{where}: the LoRA of {name} is {tuple(delta.shape)}, the base's layer {tuple(weight.shape)}: another base."
            )
        weight.copy_((weight.float() + delta).to(weight.dtype))
    if state:
        raise CheckpointError(f"{where} has LoRA tensors of an unknown kind, the first {next(iter(state))}.")
