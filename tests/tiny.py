"""Builders of tiny real models: Kolors' own topology at small widths."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from tadisr import TADiSR, preset
from tadisr.config import DecoderConfig, ModelConfig, PromptConfig


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


def randomize(model: TADiSR, *, seed: int = 0, scale: float = 0.1) -> TADiSR:
    """Give every trained part that starts at zero something to say."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*model.decoder.parameters(), *model.prompt.buffers(), *model.vae.decoder.conv_out.parameters()]:
            if tensor.is_floating_point() and not tensor.any():
                tensor.normal_(0, scale, generator=generator)
        for name, tensor in [*model.unet.named_parameters(), *model.vae.named_parameters()]:
            if ".lora_B." in name:
                tensor.normal_(0, scale, generator=generator)
    return model


def write_base(folder: Path, model: TADiSR) -> Path:
    """The frozen part of a model as a diffusers folder, as users have it."""
    for part in ("unet", "vae"):
        model.get_submodule(part).save_pretrained(folder / part, variant="fp16")
    return folder
