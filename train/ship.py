"""Make a file to ship from a run's checkpoint: fp16, for a residual model with its residual scaled.

    python -m train.ship runs/compact_camera/model.safetensors tadisr/weights/compact.safetensors --gain 0.6

A model trained for the mean error draws uncertain strokes harder than a reader likes. The gain is chosen on rendered
pages that training never saw, between the best PSNR (0.75) and the best reading (0.3) of v6; see docs/measurements.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import tadisr
from tadisr import adapter
from tadisr.errors import ConfigError, TADiSRError


def ship(source: Path, target: Path, *, gain: float = 1.0) -> None:
    """Write `source` to `target` in fp16, its residual on the upscaled input times `gain`. Raises ConfigError."""
    model = tadisr.load(source)
    if gain != 1 and not model.config.residual:
        raise ConfigError(f"A gain of {gain} needs a model with a residual; {model.config.name} has none.")
    with torch.no_grad():
        for parameter in model.vae.decoder.conv_out.parameters():  # the last layer: linear in the residual
            parameter.mul_(gain)
    training = adapter.read_header(source).training | {"residual_gain": gain}
    adapter.save(model, target, training=training, dtype=torch.float16)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.ship", description="Make a file to ship from a checkpoint.")
    parser.add_argument("source", type=Path, help="a checkpoint of ours that stands alone")
    parser.add_argument("target", type=Path)
    parser.add_argument("--gain", type=float, default=1.0, help="of the residual (default 1)")
    arguments = parser.parse_args(argv)
    try:
        ship(arguments.source, arguments.target, gain=arguments.gain)
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
