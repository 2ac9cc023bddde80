"""`python -m tadisr memory`: what a model needs of a card's memory, by arithmetic; needs no weights and no GPU."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from ..model.precision import DTYPES, FP8
from ..presets import PRESETS, preset

ASIDE = 1.0e9  # bytes for the driver, kernels' workspaces and the allocator's gaps: a guess on the safe side


def add_command(commands: Any) -> None:
    command = commands.add_parser("memory", help="count what a model needs of a card's memory, without weights or GPU")
    command.add_argument("--preset", choices=list(PRESETS), default="kolors", help="default kolors")
    command.add_argument("--dtype", choices=list(DTYPES), default="bf16", help="fp8 is computed in bf16 (default bf16)")
    command.add_argument("--tile", type=int, default=768, help="side of a tile of the 4x image (default 768)")
    command.add_argument("--batch", type=int, default=1, help="tiles at once (default 1)")
    command.add_argument("--json", action="store_true", help="bytes, as JSON")
    command.set_defaults(run=run_command)


def run_command(arguments: argparse.Namespace) -> int:
    from ..profiling.memory import plan_memory

    dtype = DTYPES[arguments.dtype]
    compute = torch.bfloat16 if dtype == FP8 else dtype
    found = plan_memory(
        preset(arguments.preset), dtype=dtype, compute=compute, tile=arguments.tile, batch=arguments.batch
    )
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    print(f"{found['model']}, stored in {found['dtype']}, computed in {found['compute']}; GB of 10^9 bytes")
    for name, size in found["weights"].items():
        print(f"  weights, {name:<12}{size / 1e9:8.2f}")
    for name, size in found["activations"].items():
        print(f"  beside them, {name:<8}{size / 1e9:8.2f}   {found['batch']} of {found['tile']}x{found['tile']}")
    print(
        f"  together{'':<12}{found['together'] / 1e9:8.2f}   with {ASIDE / 1e9:.0f} GB for driver and workspaces:",
        end=" ",
    )
    print(f"a card of {(found['together'] + ASIDE) / 2**30:.1f} GiB")
    return 0
