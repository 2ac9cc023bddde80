"""`python -m train.synthesis sources`: look at data sets before a long run does."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from tadisr.atomic_write import write_atomic

from ...config import Loader, parse_override
from . import KINDS, SourceError, open_source
from .report import examine_source, summarize_source


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("sources", help="report what data sets hold: counts, sizes, broken files, terms")
    parser.add_argument("config", nargs="?", type=Path, help="a build's YAML: all sources it names")
    parser.add_argument("--kind", choices=KINDS, help="instead of a config: one source")
    parser.add_argument("--path", type=Path, help="where it lies")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="for instance split=train")
    parser.add_argument("--limit", type=int, default=1000, help="look at so many, evenly spaced; 0: at all (1000)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode (0: none beside this one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there too")
    parser.set_defaults(run=run_command)


def find_sources(table: Any) -> Iterator[dict[str, Any]]:
    """Find every table in a config that has a source's kind: kind, path, name and the kind's options."""
    if isinstance(table, dict):
        if table.get("kind") in KINDS:
            yield table
        else:
            for value in table.values():
                yield from find_sources(value)
    elif isinstance(table, list):
        for value in table:
            yield from find_sources(value)


def choose_sources(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the sources' tables from the config or the flags. Raises SourceError."""
    if (arguments.config is None) == (arguments.kind is None):
        raise SourceError("Name either a config or --kind (and --path).")
    if arguments.kind is not None:
        options: dict[str, Any] = {}
        for option in arguments.option:
            options |= parse_override(option)
        return [{"kind": arguments.kind, "path": arguments.path, **options}]
    if not arguments.config.is_file():
        raise SourceError(f"There is no config {arguments.config}.")
    tables = list(find_sources(yaml.load(arguments.config.read_text("utf-8"), Loader)))
    if not tables:
        raise SourceError(f"{arguments.config} names no source: a table with kind: one of {', '.join(KINDS)}.")
    return tables


def run_command(arguments: argparse.Namespace) -> int:
    """Print a report of every source; return 1 if something is broken."""
    reports = []
    for table in choose_sources(arguments):
        source = open_source(**table)
        looks = examine_source(source, limit=arguments.limit or None, workers=arguments.workers)
        total = min(arguments.limit, len(source)) if arguments.limit else len(source)
        report = summarize_source(source, list(tqdm(looks, source.name, total, leave=False)))
        reports.append(report)
        print(report)
    if arguments.json is not None:
        text = json.dumps([report.to_dict() for report in reports], indent=1, ensure_ascii=False)
        write_atomic(arguments.json, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))
    return int(any(report.broken for report in reports))
