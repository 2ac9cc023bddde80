"""A deeper model that starts as the same function: `init` for a run that is to go on with more capacity.

    python -m train.grow runs/compact_mean/model.safetensors runs/deep_init.safetensors vae.layers_per_block=5

Residual blocks that the source lacks are added behind those it has, their last convolution zero, so that they pass on
what they are given (Net2Net's deepening; Chen et al., 2016).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

import tadisr
from tadisr import TADiSR, adapter
from tadisr.config import ModelConfig
from tadisr.errors import ConfigError, TADiSRError

from .settings import merge, parse_override


def grow(source: TADiSR, config: ModelConfig) -> TADiSR:
    """A model of `config` that computes what `source` does. Raises ConfigError where blocks cannot just be added."""
    grown = TADiSR(config)
    have = source.state_dict()
    added = {
        name
        for name, module in grown.named_modules()
        if isinstance(module, ResnetBlock2D) and f"{name}.conv1.weight" not in have
    }
    for name in added:
        block = grown.get_submodule(name)
        if block.conv_shortcut is not None:
            raise ConfigError(f"{name} would change the number of channels: only blocks that keep it can be added.")
        for parameter in block.get_submodule("conv2").parameters():
            nn.init.zeros_(parameter)
    fresh = {key for key in grown.state_dict() if any(key.startswith(f"{name}.") for name in added)}
    wrong = sorted(
        key
        for key in (have.keys() | grown.state_dict().keys()) - fresh
        if key not in have or key not in grown.state_dict() or have[key].shape != grown.state_dict()[key].shape
    )
    if wrong:
        raise ConfigError(f"{wrong[0]} is not the same in both: only residual blocks can be added.")
    grown.load_state_dict(have, strict=False)
    return grown


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.grow", description="Deepen a model without changing it.")
    parser.add_argument("source", type=Path, help="a checkpoint of ours that stands alone")
    parser.add_argument("target", type=Path)
    parser.add_argument("fields", nargs="+", help="fields of its config, such as vae.layers_per_block=5")
    arguments = parser.parse_args(argv)
    try:
        source = tadisr.load(arguments.source)
        data = source.config.to_dict()
        for field in arguments.fields:
            data = merge(data, parse_override(field))
        torch.manual_seed(0)
        grown = grow(source, ModelConfig.from_dict(data))
        adapter.save(grown, arguments.target, training=adapter.read_header(arguments.source).training)
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
