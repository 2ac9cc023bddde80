"""Kolors from a diffusers folder: `unet/` and `vae/`, each a config.json and safetensors of any variant."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .. import adapter
from ..config import ModelConfig
from ..errors import CheckpointError
from ..model import TADiSR

VARIANTS = ("", ".fp16")  # Kolors-diffusers has fp16 files only


def load_base(folder: str | Path | None, config: ModelConfig) -> TADiSR:
    """A model of `config` whose U-Net and VAE hold the base's weights, fp32. Raises CheckpointError."""
    if folder is None:
        raise CheckpointError(
            f"The {config.name} adapter needs its base: give the folder of {config.name} that has "
            f"{config.denoiser}/ and vae/ in it."
        )
    model = TADiSR(config)
    for part in config.parts:
        _fill(model.get_submodule(part), weights_file(Path(folder) / part))
    model.base_digest = adapter.base_fingerprint(model)
    return model


def weights_file(folder: Path) -> Path:
    """The one weights file in a diffusers part's folder. Raises CheckpointError when there is none."""
    for variant in VARIANTS:
        path = folder / f"diffusion_pytorch_model{variant}.safetensors"
        if path.is_file():
            return path
    raise CheckpointError(f"{folder} has no diffusion_pytorch_model.safetensors (or .fp16.safetensors) in it.")


def _fill(module: nn.Module, path: Path) -> None:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): download or copy it again."
        ) from error
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    wrong = [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{path} is not this base: {len(missing)} tensors missing, {len(unknown)} unknown, {len(wrong)} of another "
            f"shape, the first {(missing + unknown + wrong)[0]}."
        )
    module.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
