"""One tensor, two names: diffusers' and LDM's (which ComfyUI keeps), for SDXL's kind of U-Net and its VAE.

Both maps are derived from the config, so they hold at any width. Kolors adds `encoder_hid_proj`, which LDM has no name
for: ComfyUI's files keep diffusers'.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
# diffusers before 0.18 named the attention of the VAE's mid block so
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def map_unet_names(names: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
    """Map diffusers' names of a U-Net's tensors to LDM's."""
    places = _unet_places(config)
    return {name: _rename(name, places, RESNET if ".resnets." in name else {}) for name in names}


def _unet_places(config: dict[str, Any]) -> dict[str, str]:
    """Map each block of diffusers' to its place in LDM's numbered lists: {diffusers prefix: LDM prefix}."""
    places = {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
        "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }  # fmt: skip
    layers, down, up = config["layers_per_block"], config["down_block_types"], config["up_block_types"]
    n = 1
    for i in range(len(down)):
        for j in range(layers):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{n}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{n}.1"
            n += 1
        if i < len(down) - 1:
            places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{n}.0.op"
            n += 1
    n = 0
    for i, kind in enumerate(up):
        for j in range(layers + 1):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{n}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{n}.1"
            if j == layers and i < len(up) - 1:
                after = 2 if "CrossAttn" in kind else 1
                places[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{n}.{after}.conv"
            n += 1
    return places


def map_vae_names(names: Iterable[str], config: dict[str, Any]) -> dict[str, str]:
    """Map diffusers' names of an AutoencoderKL's tensors to LDM's, whose attention holds 1x1 convolutions."""
    places: dict[str, str] = {}
    last = len(config["block_out_channels"]) - 1
    for side, blocks, resample in (("encoder", "down", "downsample"), ("decoder", "up", "upsample")):
        places[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        for j in range(2):
            places[f"{side}.mid_block.resnets.{j}"] = f"{side}.mid.block_{j + 1}"
        places[f"{side}.mid_block.attentions.0"] = f"{side}.mid.attn_1"
        for i in range(last + 1):
            level = i if side == "encoder" else last - i  # LDM counts the decoder's from the finest
            for j in range(config["layers_per_block"] + 1):
                places[f"{side}.{blocks}_blocks.{i}.resnets.{j}"] = f"{side}.{blocks}.{level}.block.{j}"
            places[f"{side}.{blocks}_blocks.{i}.{resample}rs.0"] = f"{side}.{blocks}.{level}.{resample}"
    return {name: _rename(name, places, ATTENTION | {"conv_shortcut": "nin_shortcut"}) for name in names}


def map_old_vae_names(names: Iterable[str]) -> dict[str, str]:
    """Map a VAE's names to those that diffusers used before 0.18."""
    back = {new: old for old, new in OLD_ATTENTION.items()}
    return {name: _rename(name, {}, back) if ".attentions." in name else name for name in names}


def _rename(name: str, places: dict[str, str], parts: dict[str, str]) -> str:
    """The longest known prefix replaced by its place, then what is inside it by its part's name."""
    head = max((place for place in places if name.startswith(place + ".")), key=len, default="")
    rest = name.removeprefix(head)
    for old, new in parts.items():
        if f".{old}." in f"{rest}.":
            rest = f"{rest}.".replace(f".{old}.", f".{new}.").removesuffix(".")
            break
    return places.get(head, "") + rest
