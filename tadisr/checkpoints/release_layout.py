"""Every tensor of the authors' two pickles by name and shape, and what it is called in our file.

All of it follows from the config, so a pickle of small widths has the same layout. The LoRA of a layer is A and B:
of a linear one (r, in) and (out, r), of a convolution (r, in, k, k) and (out, r, 1, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from ..config import LoRAConfig, ModelConfig
from ..model.denoiser import build_denoiser
from ..model.joint_decoder import JointParts
from ..model.lora import list_targets
from ..model.release_blocks import BLOCKS
from ..model.vae import build_vae

Shape = tuple[int, ...]
SIDES = ("l", "r")  # of the image's stream and of the text's
DENOISER, VAE = "default", "vae_skip"  # what the authors call the LoRA on either


@dataclass
class Table:
    """One table of a pickle: {name: shape}, and {our name: its names}. One tensor of the decoder may have two."""

    shapes: dict[str, Shape] = field(default_factory=dict)
    ours: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, shape: Shape, ours: str) -> None:
        self.shapes[name] = shape
        self.ours.setdefault(ours, []).append(name)


def list_denoiser(config: ModelConfig) -> Table:
    """List `state_dict_unet` or `state_dict_transformer`: LoRA, and what was trained whole."""
    lora, part, table = cast(LoRAConfig, config.lora), config.denoiser, Table()
    with torch.device("meta"):
        module = cast(nn.Module, build_denoiser(config))
    for name, tensor in module.state_dict().items():
        if name.rpartition(".")[0] in lora.unet_whole:
            table.add(name, tuple(tensor.shape), f"{part}.{name}")
    for name in list_targets(module, "", lora.unet_targets):
        weight = tuple(module.get_parameter(f"{name}.weight").shape)
        for half, shape in list_lora_shapes(weight, lora.unet_rank):
            table.add(f"{name}.lora_{half}.{DENOISER}.weight", shape, f"{part}_lora.{name}.lora_{half}.weight")
    return table


def list_vae(config: ModelConfig) -> Table:
    """List `state_dict_vae`: LoRA on both halves of the VAE and on the skip convolutions, and these themselves."""
    lora, table = cast(LoRAConfig, config.lora), Table()
    with torch.device("meta"):
        module = cast(nn.Module, build_vae(config))
    for name in list_targets(module, "", lora.vae_targets):
        weight = tuple(module.get_parameter(f"{name}.weight").shape)
        for half, shape in list_lora_shapes(weight, lora.vae_rank):
            table.add(f"{name}.lora_{half}.{VAE}.weight", shape, f"vae_lora.{name}.lora_{half}.weight")
    parts = build_joint_parts(config)
    for number, ours in enumerate(("unused_skip", "skips.0", "skips.1", "skips.2"), 1):
        name, weight = f"decoder.skip_conv_{number}", tuple(parts.get_parameter(f"{ours}.weight").shape)
        table.add(f"{name}.base_layer.weight", weight, f"decoder.{ours}.weight")  # to which its LoRA is added
        for half, shape in list_lora_shapes(weight, lora.vae_rank):
            table.add(f"{name}.lora_{half}.{VAE}.weight", shape, f"decoder.{ours}.weight")
    return table


def list_decoder(config: ModelConfig) -> Table:
    """List `js_decoder`, or `mi_decoder` as it is called in the Kolors pickle."""
    table = Table()
    for name, tensor in build_joint_parts(config).state_dict().items():
        for released in map_released_names(name, config.decoder.block):
            table.add(released, tuple(tensor.shape), f"decoder.{name}")
    return table


def build_joint_parts(config: ModelConfig) -> JointParts:
    with torch.device("meta"):
        return JointParts(config.decoder, vae_channels=config.vae["block_out_channels"], patch=config.patch)


def list_lora_shapes(weight: Shape, rank: int) -> Iterator[tuple[str, Shape]]:
    yield "A", (rank, *weight[1:])
    yield "B", (weight[0], rank, *(1 for _ in weight[2:]))


def map_released_names(name: str, block: str) -> list[str]:
    """Map a tensor of `JointParts` to its names in the authors' decoder; none for a skip, which is in another table."""
    room, _, rest = name.partition(".")
    if room == "text":
        return [rest.replace("out.", "out_block.", 1) if rest.startswith("out.") else rest]
    if room != "interactions":
        return []
    number, _, inner = rest.partition(".")
    prefix = f"interaction_blocks.{number}.0."
    for layer, released in BLOCKS[block].RELEASED.items():
        if inner.startswith(f"{layer}."):
            return [prefix + released.format(side=side) + inner.removeprefix(layer) for side in SIDES]
    return [prefix + inner]
