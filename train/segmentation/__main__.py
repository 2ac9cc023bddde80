"""The text segmenter's commands: `python -m train.synthesis.segmenter fit CONFIG`, `infer SPEC -o OUT`, `score SPEC`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError

from ..command_errors import report_in_one_sentence
from ..config import parse_override
from ..data.sources import KINDS, Source, open_source
from . import Segmenter, open_segmenter


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.synthesis.segmenter", description="Where text is.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = commands.add_parser("fit", help="fine-tune SAM-TS on TextSeg and BTS")
    fit.add_argument("config", type=Path, help="a YAML file, see train/configs/segmenter.yaml")
    fit.add_argument("overrides", nargs="*", help="key=value over the file, for instance epochs=10")
    fit.set_defaults(run=run_fit)

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("segmenter", help="compact, a .pth of Hi-SAM's, or a .safetensors")
    common.add_argument("--kind", choices=KINDS, default="folder", help="of the data set (folder)")
    common.add_argument("--path", type=Path, help="where it lies")
    common.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="for instance focal=52mm")
    common.add_argument("--sam", type=Path, help="SAM's own sam_vit_*.pth, for a file of Hi-SAM's")
    common.add_argument("--device", default="cpu")
    common.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    common.add_argument("--batch", type=int, default=8, help="images at once (8)")
    common.add_argument("--threshold", type=float, default=0.5, help="from which probability on it is text (0.5)")

    infer = commands.add_parser("infer", parents=[common], help="write a mask for every image of a data set")
    infer.add_argument("-o", "--out", type=Path, required=True, help="masks go to OUT/mask/KEY.png")
    infer.add_argument("--soft", action="store_true", help="keep the probability in shades of grey instead")
    infer.add_argument("--part", default="0/1", metavar="I/N", help="every N-th image from the I-th on (0/1)")
    infer.add_argument("--limit", type=int, help="of the first so many images only")
    infer.set_defaults(run=run_infer)

    score = commands.add_parser("score", parents=[common], help="foreground IoU and F-score on a set that has masks")
    score.add_argument("--limit", type=int, default=100, help="of so many images, evenly spaced (100)")
    score.add_argument("--across", type=int, help="pixels that a model of this project sees a line at (128)")
    score.set_defaults(run=run_score)

    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with report_in_one_sentence():
        return arguments.run(arguments)
    return 0


def run_fit(arguments: argparse.Namespace) -> int:
    from .fit import read_config, train_segmenter

    print(train_segmenter(read_config(arguments.config, arguments.overrides)))
    return 0


def open_inputs(arguments: argparse.Namespace) -> tuple[Segmenter, Source]:
    """Open the segmenter and the source that the arguments name."""
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
    return segmenter, source


def run_infer(arguments: argparse.Namespace) -> int:
    from .infer import write_masks

    segmenter, source = open_inputs(arguments)
    counts = write_masks(
        segmenter,
        source,
        arguments.out,
        batch=arguments.batch,
        threshold=None if arguments.soft else arguments.threshold,
        part=parse_part(arguments.part),
        limit=arguments.limit,
    )
    print(json.dumps(counts))
    return 0


def run_score(arguments: argparse.Namespace) -> int:
    from .run import OwnSegmenter
    from .score import score_segmenter

    segmenter, source = open_inputs(arguments)
    if arguments.across is not None:
        if not isinstance(segmenter, OwnSegmenter):
            raise ConfigError(
                f"--across is for a model of this project; {segmenter.name} scales images in its own way."
            )
        segmenter.across = arguments.across
    scores = score_segmenter(segmenter, [source], arguments.limit, threshold=arguments.threshold)
    print(json.dumps({name: round(value, 4) for name, value in scores.items()}))
    return 0


def parse_part(text: str) -> tuple[int, int]:
    """Parse `1/4` into (1, 4). Raises ConfigError."""
    first, _, count = text.partition("/")
    if not (first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise ConfigError(f"--part is {text}, expected I/N with I from 0 to N - 1, for instance 0/4.")
    return int(first), int(count)


if __name__ == "__main__":
    sys.exit(main())
