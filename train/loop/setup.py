"""The network to train, its frozen base, and its optimizer, as a config describes them."""

from __future__ import annotations

import torch
from torch import nn

from tadisr.checkpoints import adapter
from tadisr.config import ModelConfig
from tadisr.errors import CheckpointError, ConfigError
from tadisr.model import TADiSR
from tadisr.model.lora import ADAPTER, add_lora
from tadisr.prompt import read_prompt, use_prompt
from tadisr.safetensors_file import read_table

from .. import config as settings
from ..config import FitConfig
from .gradient_checkpointing import checkpoint_blocks


def build_model(config: FitConfig) -> TADiSR:
    """Build the network to train: all of it, or LoRA and the added parts on a frozen base. Raises ConfigError,
    CheckpointError.
    """
    model_config = settings.build_model_config(config.model)
    if model_config.lora is None:
        model = TADiSR(model_config)
    else:
        model = load_frozen_base(config, model_config)
        prepare_trained(model, model_config)
    if config.prompt is not None:
        use_prompt(model, read_prompt(config.prompt))
    if config.init is not None:
        load_init(model, config.init)
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


def load_frozen_base(config: FitConfig, model_config: ModelConfig) -> TADiSR:
    """Load the base in `base_precision`, read so from the file. Raises ConfigError, CheckpointError."""
    from tadisr.checkpoints.base_model import load_base

    if config.base_precision == "bf16" and config.precision != "bf16":
        raise ConfigError(f"base_precision: bf16 computes in bf16: set precision: bf16, it is {config.precision}.")
    dtype = torch.bfloat16 if config.base_precision == "bf16" else torch.float32
    return load_base(
        config.base,
        model_config,
        vae=config.vae,
        dtype=dtype,
        exact=lambda *weight: stays_float32(model_config, *weight),
    )


def stays_float32(model_config: ModelConfig, name: str, shape: torch.Size) -> bool:
    """Tell whether a base weight (`unet.conv_in.weight`) stays in float32 while the base is in bf16: norms and biases,
    which are small, and layers of the denoiser that are trained whole.
    """
    whole = () if model_config.lora is None else model_config.lora.unet_whole
    return len(shape) < 2 or name.startswith(tuple(f"{model_config.denoiser}.{layer}." for layer in whole))


def prepare_trained(model: TADiSR, model_config: ModelConfig) -> None:
    """Add LoRA to the base, and bring everything trained to float32."""
    assert model_config.lora is not None
    add_lora(model, model_config.lora)
    for parameter in model.parameters():  # LoRA takes after the layer it is on
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def load_init(model: TADiSR, path: str) -> None:
    """Load a checkpoint's weights to start from; an adapter's LoRA stays LoRA. Raises CheckpointError for another base or
    layout.
    """
    if model.config.lora is None:
        adapter.load_tensors(model, path)
        return
    header = adapter.read_header(path)
    adapter.check_base(header, model.base_digest)
    table = read_table(path)
    tensors, state = dict(table.read({name: name for name in table.entries})), model.state_dict()
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
    """Build AdamW over the trained parameters. Raises ConfigError if the 8-bit variant is asked for without bitsandbytes."""
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
