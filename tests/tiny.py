"""Builders of tiny real models: Kolors' own topology at small widths."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

from tadisr import TADiSR, preset
from tadisr.config import DecoderConfig, LoRAConfig, ModelConfig, PromptConfig
from tadisr.kolors.names import unet_names, vae_names


def tiny_kolors_config(**changes: Any) -> ModelConfig:
    """Kolors layer for layer, about 15 M parameters instead of 2.7 G."""
    real = preset("kolors")
    unet = real.unet | {
        "block_out_channels": [20, 40, 80],
        "norm_num_groups": 20,
        "cross_attention_dim": 32,
        "encoder_hid_dim": 32,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
        "sample_size": 16,
    }
    vae = real.vae | {"block_out_channels": [32, 64, 128, 128], "sample_size": 128}
    tiny = dataclasses.replace(
        real,
        unet=unet,
        vae=vae,
        prompt=PromptConfig(tokens=16, width=32, pooled=32),
        decoder=DecoderConfig(text_channels=(128, 128, 128, 64, 64)),
    )
    return dataclasses.replace(tiny, **changes)


def tiny_cogview4_config(**changes: Any) -> ModelConfig:
    """CogView4 layer for layer, at small widths."""
    real = preset("cogview4")
    transformer = real.transformer | {
        "num_layers": 3,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "text_embed_dim": 24,
        "time_embed_dim": 16,
        "condition_dim": 8,
        "sample_size": 16,
        "rope_axes_dim": [16, 16],
    }
    vae = real.vae | {"block_out_channels": [32, 64, 64, 64], "layers_per_block": 1, "sample_size": 128}
    tiny = dataclasses.replace(
        real,
        transformer=transformer,
        vae=vae,
        prompt=PromptConfig(tokens=16, width=24, pooled=0, time_ids=None),
        decoder=DecoderConfig(text_channels=(64, 64, 64, 64, 32)),
        lora=LoRAConfig(),
    )
    return dataclasses.replace(tiny, **changes)


def randomize(model: TADiSR, *, seed: int = 0, scale: float = 0.1) -> TADiSR:
    """Give every trained part that starts at zero something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.decoder.parameters(), *model.prompt.buffers(), *model.vae.decoder.conv_out.parameters()]:
            if tensor.is_floating_point() and not tensor.any():
                tensor.normal_(0, scale, generator=generator)
        for name, tensor in [*model.denoiser.named_parameters(), *model.vae.named_parameters()]:
            if ".lora_B." in name:
                tensor.normal_(0, scale, generator=generator)
    return model


def write_base(folder: Path, model: TADiSR) -> Path:
    """The frozen part of a model as a diffusers folder, as users have it."""
    for part in model.config.parts:
        copy.deepcopy(model.get_submodule(part)).half().save_pretrained(folder / part, variant="fp16")
    return folder


def as_ldm(model: TADiSR, part: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """The U-Net or VAE of a model under the keys of ComfyUI's single files, fp16."""
    state = {k: v.half().contiguous() for k, v in model.get_submodule(part).state_dict().items()}
    if part == "unet":
        return {prefix + new: state[old] for old, new in unet_names(state, model.config.unet).items()}
    names = vae_names(state, model.config.vae)
    square = (".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")  # 1x1 convolutions there
    return {
        prefix + new: state[old][:, :, None, None] if new.endswith(square) else state[old] for old, new in names.items()
    }
