"""A larger model that starts as the same function: `init` for a run with more capacity.

    python -m train.grow runs/compact/model.safetensors runs/large_init.safetensors vae.layers_per_block=2 \\
        'vae.block_out_channels=[96, 128]' 'unet.block_out_channels=[96, 128]'
    python -m train.grow runs/compact_trunk/model.safetensors runs/deeper.safetensors decoder.trunk.blocks=24

Net2Net (Chen et al., 2016). Deeper: residual blocks that the source lacks are added behind those it has, their last
convolution zero, so that they pass on what they are given. Wider: widths are doubled, each channel beside its twin;
what reads them divides its weight among the two at random, so that training separates them.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

import tadisr
from tadisr import TADiSR
from tadisr.checkpoints import adapter
from tadisr.config import ModelConfig
from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError
from tadisr.model.joint_decoder import Branch
from tadisr.model.schedule import denoiser_time
from tadisr.model.trunk import Block

from .config import merge_tables, parse_override

Twins = list[int]  # for each channel of the larger layer, the channel of the smaller one that it repeats
TIME = "unet.time_embedding.linear_1"


def grow_model(source: TADiSR, config: ModelConfig) -> TADiSR:
    """Build a model of `config` that computes the same as `source`. Raises ConfigError if it cannot be grown to that."""
    grown = TADiSR(config)
    have, tensors = source.state_dict(), grown.state_dict()
    fresh = silence_new_blocks(grown, have)
    wrong = sorted(set(have) - set(tensors)) + sorted(set(tensors) - set(have) - fresh)
    if wrong:
        raise ConfigError(f"{wrong[0]} is not in both: only residual blocks can be added, and widths doubled.")
    for name, small in have.items():
        tensors[name] = widen_tensor(name, small, tensors[name], source)
    if f"{TIME}.weight" in have and tensors[f"{TIME}.weight"].shape != have[f"{TIME}.weight"].shape:
        fold_timestep(source, tensors)
    for name, module in grown.named_modules():
        if isinstance(module, Attention) and len(have[f"{name}.to_q.weight"]) < len(module.to_q.weight):
            tensors[f"{name}.to_q.weight"] /= math.sqrt(2)  # twice the terms in q.k, over a root of 2 more
    grown.load_state_dict(tensors)
    return grown


def silence_new_blocks(grown: TADiSR, have: dict[str, Tensor]) -> set[str]:
    """Zero the last layer of new residual blocks, so that they add nothing; return the names of all new tensors."""
    fresh: set[str] = set()
    for name, module in grown.named_modules():
        if isinstance(module, ResnetBlock2D) and f"{name}.conv1.weight" not in have:
            if module.conv_shortcut is not None:
                raise ConfigError(f"{name} would change the number of channels: only blocks that keep it can be added.")
            for parameter in module.conv2.parameters():
                nn.init.zeros_(parameter)
            fresh |= {f"{name}.{key}" for key in module.state_dict()}
        if isinstance(module, Block) and f"{name}.first.weight" not in have:  # its second convolution is zero
            fresh |= {f"{name}.{key}" for key in module.state_dict()}
    return fresh


def widen_tensor(name: str, small: Tensor, large: Tensor, source: TADiSR) -> Tensor:
    """Copy `small` into the shape of `large`, doubled channels sharing their weights. Raises ConfigError."""
    owner = source.get_submodule(name.rsplit(".", 2)[0])
    split = owner.widths if isinstance(owner, Branch) and name.split(".")[-2] == "split" else None
    axis = 1 if name.endswith(".scale") else 0
    rows = map_channels(name, small.shape[axis], large.shape[axis], split)
    grown = small.index_select(axis, torch.tensor(rows))
    if small.ndim > 1 and axis == 0:
        columns = map_channels(name, small.shape[1], large.shape[1])
        grown = grown.index_select(1, torch.tensor(columns))
        if small.shape[1] != large.shape[1]:
            share = torch.rand(grown[:, ::2].shape) * 0.6 + 0.2
            grown = grown * torch.stack([share, 1 - share], 2).flatten(1, 2)
    if grown.shape != large.shape:
        raise ConfigError(
            f"{name} is {tuple(small.shape)} and is to be {tuple(large.shape)}: widths can be doubled only."
        )
    return grown


def map_channels(name: str, small: int, large: int, split: tuple[int, int] | None = None) -> Twins:
    """Map each channel of the larger layer to the one it copies. Raises ConfigError unless widths are equal or doubled."""
    if large == small:
        return list(range(small))
    if large == 2 * small:
        return [i // 2 for i in range(large)]
    for start, stop in ((0, split[0]), (split[0], small)) if split else ():  # one side of a CDIB grows alone
        if large == small + stop - start:
            return [*range(start), *(i for i in range(start, stop) for _ in range(2)), *range(stop, small)]
    raise ConfigError(f"{name} has {small} channels and is to have {large}: widths can be doubled only.")


def fold_timestep(source: TADiSR, tensors: dict[str, Tensor]) -> None:
    """Fold the embedding of the one timestep into a bias, since a wider sinusoidal embedding has other frequencies."""
    unet: Any = source.denoiser
    time = unet.time_proj(torch.tensor([float(denoiser_time(source.config.schedule))]))
    tensors[f"{TIME}.weight"].zero_()
    tensors[f"{TIME}.bias"] = source.get_submodule(TIME)(time)[0].detach().repeat_interleave(2)


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.grow", description="Enlarge a model without changing it.")
    parser.add_argument("source", type=Path, help="a checkpoint of ours that stands alone")
    parser.add_argument("target", type=Path)
    parser.add_argument("fields", nargs="+", help="fields of its config, such as vae.layers_per_block=5")
    arguments = parser.parse_args(argv)
    try:
        source = tadisr.load(arguments.source)
        data = source.config.to_dict()
        for field in arguments.fields:
            data = merge_tables(data, parse_override(field))
        torch.manual_seed(0)
        grown = grow_model(source, ModelConfig.from_dict(data))
        adapter.save_checkpoint(grown, arguments.target, training=adapter.read_header(arguments.source).training)
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
