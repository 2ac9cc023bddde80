"""The steps that make FTSR: `python -m train.synthesis STEP --help`."""

from __future__ import annotations

import argparse
import logging
import sys

from tadisr.console import escape_unknown_characters

from ..command_errors import catch_stop_signals, report_in_one_sentence
from ..data.sources import command as sources
from . import bench, build
from .realce import prepare
from .report import page


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.synthesis", description="Make the FTSR data set.")
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for step in (sources, build, page, bench, prepare):
        step.add_parser(steps)
    arguments, more = parser.parse_known_args(argv)
    if any(word.startswith("-") or "=" not in word for word in more) or not hasattr(arguments, "overrides"):
        parser.parse_args(argv)  # says what it does not know
    else:
        arguments.overrides += more  # key=value after an option
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with report_in_one_sentence(), catch_stop_signals(at_once=True):
        return arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
