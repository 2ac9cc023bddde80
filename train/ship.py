"""Make a file to ship from a run's checkpoint: fp16, for a residual model with its residual scaled.

    python -m train.ship runs/compact_mean/model.safetensors tadisr/weights/compact.safetensors --detail 0.5

A model trained for the mean error draws uncertain strokes harder than a reader likes. What it mends at the scale of the
LR image, the mean of each patch, is certain and stays; the detail within a patch is what it guesses, and is scaled.
Runs from one start can be shipped as the mean of their weights, which is less any one run's chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import tadisr
from tadisr.checkpoints import adapter
from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError


def ship_model(
    source: Path,
    target: Path,
    *,
    mean: Sequence[Path] = (),
    gain: float = 1.0,
    detail: float = 1.0,
    default_detail: float | None = None,
) -> None:
    """Write `source` to `target` in fp16, its residual on the upscaled input times `gain`, the part of it within each
    patch also times `detail`. mean: more checkpoints, the mean of whose weights and its own is taken. default_detail: 0 to 1,
    of a model with a trunk: how much of what it is not sure of `upscale` keeps unless it is told. Raises ConfigError for a
    model without a residual or a trunk, and for checkpoints of different configs.
    """
    model, others = tadisr.load(source), [tadisr.load(path) for path in mean]
    if any(other.config != model.config for other in others):
        raise ConfigError("The mean of weights needs checkpoints of one config.")
    with torch.no_grad():
        for same in zip(*(one.parameters() for one in (model, *others)), strict=True):
            same[0].copy_(torch.stack([parameter.double() for parameter in same]).mean(0))
    if (gain, detail) != (1, 1) and not model.config.residual:
        raise ConfigError(
            f"A gain of {gain} and detail of {detail} need a model with a residual; {model.config.name} has none."
        )
    last = model.vae.decoder.conv_out if model.decoder.trunk is None else model.decoder.trunk.out
    with torch.no_grad():
        for parameter in last.parameters():  # linear in the residual
            pixels = parameter.unflatten(0, (3, model.config.patch**2))  # of a patch, as pixel_shuffle lays them out
            whole = pixels.mean(1, keepdim=True)
            parameter.copy_((gain * (whole + detail * (pixels - whole))).flatten(0, 1))
    if default_detail is not None:
        if model.config.decoder.trunk is None:
            raise ConfigError(f"A default detail needs a model with a trunk; {model.config.name} has none.")
        trunk = replace(model.config.decoder.trunk, detail=default_detail)
        model.config = replace(model.config, decoder=replace(model.config.decoder, trunk=trunk))
    training = adapter.read_header(source).training | {"residual_gain": gain, "residual_detail": detail}
    if mean:
        training["mean_with"] = [adapter.read_header(path).training for path in mean]
    adapter.save_checkpoint(model, target, training=training, dtype=torch.float16)


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.ship", description="Make a file to ship from a checkpoint.")
    parser.add_argument("source", type=Path, help="a checkpoint of ours that stands alone")
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--mean", type=Path, nargs="+", default=(), help="more checkpoints, to take the mean of all their weights"
    )
    parser.add_argument("--gain", type=float, default=1.0, help="of the residual (default 1)")
    parser.add_argument(
        "--detail", type=float, default=1.0, help="of what the residual adds within a patch (default 1)"
    )
    parser.add_argument(
        "--default-detail", type=float, help="of a model with a certainty output: `detail` unless given"
    )
    arguments = parser.parse_args(argv)
    try:
        ship_model(
            arguments.source, arguments.target, mean=arguments.mean, gain=arguments.gain, detail=arguments.detail,
            default_detail=arguments.default_detail,
        )  # fmt: skip
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
