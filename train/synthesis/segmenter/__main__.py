"""The text segmenter's commands: `python -m train.synthesis.segmenter fit CONFIG`, `... infer SPEC -o OUT`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from tadisr.errors import ConfigError, TADiSRError

from ...data.sources import KINDS, open_source
from ...settings import parse_override


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.synthesis.segmenter", description="Where text is.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = commands.add_parser("fit", help="fine-tune SAM-TS on TextSeg and BTS")
    fit.add_argument("config", type=Path, help="a YAML file, see train/configs/segmenter.yaml")
    fit.add_argument("overrides", nargs="*", help="key=value over the file, for instance epochs=10")
    fit.set_defaults(run=run_fit)

    infer = commands.add_parser("infer", help="write a mask for every picture of a data set")
    infer.add_argument("segmenter", help="compact, a .pth of Hi-SAM's, or a .safetensors")
    infer.add_argument("-o", "--out", type=Path, required=True, help="masks go to OUT/mask/KEY.png")
    infer.add_argument("--kind", choices=KINDS, default="folder", help="of the data set (folder)")
    infer.add_argument("--path", type=Path, help="where it lies")
    infer.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="for instance focal=52mm")
    infer.add_argument("--sam", type=Path, help="SAM's own sam_vit_*.pth, for a file of Hi-SAM's")
    infer.add_argument("--device", default="cpu")
    infer.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    infer.add_argument("--batch", type=int, default=8, help="pictures at once (8)")
    infer.add_argument("--threshold", type=float, default=0.5, help="of text, for masks of 0 and 255 (0.5)")
    infer.add_argument("--soft", action="store_true", help="keep the probability in shades of grey instead")
    infer.add_argument("--part", default="0/1", metavar="I/N", help="every N-th picture from the I-th on (0/1)")
    infer.add_argument("--limit", type=int, help="of the first so many pictures only")
    infer.set_defaults(run=run_infer)

    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        return arguments.run(arguments)
    except TADiSRError as error:
        sys.exit(f"error: {error}")


def run_fit(arguments: argparse.Namespace) -> int:
    from .fit import fit, read

    print(fit(read(arguments.config, arguments.overrides)))
    return 0


def run_infer(arguments: argparse.Namespace) -> int:
    from . import open_segmenter
    from .infer import infer

    options: dict[str, Any] = {}
    for option in arguments.option:
        options |= parse_override(option)
    source = open_source(arguments.kind, arguments.path, **options)
    segmenter = open_segmenter(
        arguments.segmenter,
        device=arguments.device,
        sam=arguments.sam,
        precision=arguments.precision,
        batch=arguments.batch,
    )
    counts = infer(
        segmenter,
        source,
        arguments.out,
        batch=arguments.batch,
        threshold=None if arguments.soft else arguments.threshold,
        part=part(arguments.part),
        limit=arguments.limit,
    )
    print(json.dumps(counts))
    return 0


def part(text: str) -> tuple[int, int]:
    """`1/4` -> (1, 4). Raises ConfigError."""
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise ConfigError(f"--part is {text}, expected I/N with I from 0 to N - 1, for instance 0/4.")
    return int(first), int(count)


if __name__ == "__main__":
    sys.exit(main())
