"""The network to train, its frozen base, and its optimizer, as a config describes them."""

from __future__ import annotations

import torch
from safetensors.torch import load_file
from torch import nn

from tadisr import adapter
from tadisr.config import ModelConfig
from tadisr.errors import CheckpointError, ConfigError
from tadisr.lora import ADAPTER, add_lora
from tadisr.model import TADiSR
from tadisr.prompt import read_prompt, use_prompt

from . import settings
from .checkpointing import checkpoint_blocks
from .settings import FitConfig


def build_model(config: FitConfig) -> TADiSR:
    """All of the network to train, or LoRA and the added parts on a frozen base. Raises ConfigError, CheckpointError."""
    model_config = settings.model_config(config.model)
    if model_config.lora is None:
        model = TADiSR(model_config)
    else:
        model = load_frozen(config, model_config, whole=model_config.lora.unet_whole)
        add_lora(model, model_config.lora)
        for parameter in model.parameters():  # LoRA takes after the layer it is on
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if config.prompt is not None:
        use_prompt(model, read_prompt(config.prompt))
    if config.init is not None:
        start_from(model, config.init)
    if not model.prompt.config.learned and not model.prompt.embedding.any():
        raise ConfigError(
            f"The prompt {model.prompt.config.text!r} is not encoded yet: write it with python -m tadisr prompt, and name "
            "the file as prompt: FILE."
        )
    if config.checkpointing:
        checkpoint_blocks(model)
    if config.compile:
        model.compile()
    return model.train()


def load_frozen(config: FitConfig, model_config: ModelConfig, *, whole: tuple[str, ...]) -> TADiSR:
    """The base, its matrices and kernels held in `base_precision` from the file on.

    Norms and biases are small and stay in float32, and so do the denoiser's layers `whole`, which are to be trained.
    """
    from tadisr.kolors.base import load_base

    if config.base_precision == "fp32":
        return load_base(config.base, model_config, vae=config.vae)
    if config.precision != "bf16":
        raise ConfigError(f"base_precision: bf16 computes in bf16: set precision: bf16, it is {config.precision}.")
    trained = tuple(f"{model_config.denoiser}.{name}." for name in whole)
    return load_base(
        config.base,
        model_config,
        vae=config.vae,
        dtype=torch.bfloat16,
        exact=lambda name, shape: len(shape) < 2 or name.startswith(trained),
    )


def start_from(model: TADiSR, path: str) -> None:
    """Take a checkpoint's weights; an adapter's go on being LoRA. Raises CheckpointError for another base or layout."""
    if model.config.lora is None:
        adapter.load_tensors(model, path)
        return
    header = adapter.read_header(path)
    adapter.check_base(header, model.base_digest)
    tensors, state = load_file(path), model.state_dict()
    known = {}
    for name, tensor in tensors.items():
        own = name.replace("_lora.", ".", 1)
        own = own.removesuffix(".weight") + f".{ADAPTER}.weight" if ".lora_" in own else name
        known[own] = tensor
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    wrong = sorted((learned - known.keys()) | (known.keys() - state.keys()))
    wrong += [name for name in sorted(known.keys() & state.keys()) if known[name].shape != state[name].shape]
    if wrong:
        raise CheckpointError(f"{path} does not fit the config: {wrong[0]} and {len(wrong) - 1} more are not the same.")
    model.load_state_dict(known, strict=False)


def build_optimizer(config: FitConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW on what is trained. Raises ConfigError where its 8-bit form is asked for and bitsandbytes is missing."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "optimizer: adamw8bit needs bitsandbytes: pip install bitsandbytes (or 'tadisr[cuda]'), or set optimizer: adamw."
        ) from error
    return AdamW8bit(trained, lr=config.lr, weight_decay=config.weight_decay)
