"""The named sets of choices: the paper's design on Kolors and on CogView4, the authors' two releases, the compact model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from .config import (
    DecoderConfig,
    LoRAConfig,
    ModelConfig,
    PromptConfig,
    ScheduleConfig,
    TextAttentionConfig,
    TrunkConfig,
)
from .errors import ConfigError


def _kolors_unet() -> dict[str, Any]:
    return {
        "in_channels": 4,
        "out_channels": 4,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "encoder_hid_dim": 4096,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 5632,
        "use_linear_projection": True,
    }


def _kolors_vae() -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "sample_size": 1024,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 4,
        "layers_per_block": 2,
        "scaling_factor": 0.13025,
    }


def make_kolors() -> ModelConfig:
    """Make the config of the paper's model on the frozen Kolors base."""
    return ModelConfig(name="kolors", unet=_kolors_unet(), vae=_kolors_vae())


SD_TURBO = 0.7536917  # abar of its schedule at t = 200, which the authors' code takes for Kolors too


def make_kolors_release() -> ModelConfig:
    """Make the config of the authors' Kolors model as known from its file and their code; docs/user/release.md lists the
    guesses.
    """
    return replace(
        make_kolors(),
        name="kolors-release",
        latent="sample",
        schedule=ScheduleConfig(alpha_bar=SD_TURBO),
        text_attention=TextAttentionConfig(response="probability", mid_block=False, heads="second_half", position=12),
        decoder=DecoderConfig(block="kolors-release", source="image", unused_skip=True),
        lora=LoRAConfig(encoder=True, unet_whole=("conv_in",)),
    )


COGVIEW4_PROMPT = (
    "Cinematic, High Contrast, highly detailed, taken using a Canon EOS R camera, hyper detailed photo - realistic "
    "maximum detail, 32k, Color Grading, ultra HD, extreme meticulous detailing, skin pore detailing, hyper sharpness, "
    "perfect without deformations,text"
)


def make_cogview4() -> ModelConfig:
    """Make the config of the paper's design on CogView4-6B: W_a feeds a text decoder as wide as the VAE's."""
    transformer = {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 28,
        "attention_head_dim": 128,
        "num_attention_heads": 32,
        "text_embed_dim": 4096,
        "time_embed_dim": 512,
        "condition_dim": 256,
        "pos_embed_max_size": 128,
        "sample_size": 128,
        "rope_axes_dim": [256, 256],
    }
    vae = {
        "in_channels": 3,
        "out_channels": 3,
        "sample_size": 1024,
        "block_out_channels": [128, 512, 1024, 1024],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 16,
        "layers_per_block": 3,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    }
    return ModelConfig(
        name="cogview4",
        transformer=transformer,
        vae=vae,
        schedule=ScheduleConfig(prediction="flow", train_steps=1000),
        prompt=PromptConfig(text=COGVIEW4_PROMPT, tokens=64, width=4096, pooled=0, time_ids=None),
        decoder=DecoderConfig(text_channels=(1024, 1024, 1024, 512, 128)),
        lora=LoRAConfig(
            unet_targets=(
                "attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v",
                "attn2.to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
            ),
        ),
    )  # fmt: skip


def make_cogview4_release() -> ModelConfig:
    """Make the config of the authors' CogView4 model, all of it from their code."""
    base = make_cogview4()
    return replace(
        base,
        name="cogview4-release",
        latent="sample",
        decoder=replace(base.decoder, block="cogview4-release", source="image", unused_skip=True),
        lora=replace(cast(LoRAConfig, base.lora), encoder=True),
    )


def make_compact() -> ModelConfig:
    """Make the config of the same network at small widths with all its own weights; it ships with the pack.

    Its autoencoder works on 4x4 patches of the upscaled input, that is at LR resolution, and brings them to the
    same f8 latent; the up block at LR resolution holds most of the capacity.
    """
    unet = {
        "in_channels": 8,
        "out_channels": 8,
        "sample_size": 16,
        "block_out_channels": [48, 64],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "transformer_layers_per_block": 1,
        "attention_head_dim": [4, 4],
        "cross_attention_dim": 64,
        "norm_num_groups": 16,
        "use_linear_projection": True,
    }
    vae = {
        "in_channels": 3 * 4**2,
        "out_channels": 3 * 4**2,
        "sample_size": 32,
        "block_out_channels": [48, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "latent_channels": 8,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "scaling_factor": 1.0,
        "mid_block_add_attention": False,
    }
    return ModelConfig(
        name="compact",
        unet=unet,
        vae=vae,
        patch=4,
        residual=True,
        overlap=64,
        prompt=PromptConfig(tokens=4, width=64, pooled=0, time_ids=(), learned=True),
        decoder=DecoderConfig(text_channels=(24, 24, 24), norm_groups=8, zero_skips=False),
        lora=None,
    )


def make_compact_trunk() -> ModelConfig:
    """Make the config of the compact model with its capacity in a trunk of plain convolutions at LR resolution."""
    base = make_compact()
    return replace(
        base,
        name="compact-trunk",
        vae=base.vae | {"block_out_channels": [32, 64]},
        decoder=replace(base.decoder, text_channels=(32, 32), skips=False, trunk=TrunkConfig()),
    )


PRESETS = {
    "kolors": make_kolors,
    "kolors-release": make_kolors_release,
    "cogview4": make_cogview4,
    "cogview4-release": make_cogview4_release,
    "compact": make_compact,
    "compact-trunk": make_compact_trunk,
}


def preset(name: str) -> ModelConfig:
    """Return the named config. Raises ConfigError for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}; known are {', '.join(PRESETS)}.")
    return PRESETS[name]()
