"""The whole build, one step after the other: `python -m train.synthesis build CONFIG`.

Killed at any moment and started again it resumes, and ends with the same bytes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from tadisr import ocr
from tadisr.errors import ConfigError

from ..run_lock import lock_folder
from . import config as settings
from .config import SynthesisConfig
from .engine.journal import Record, Records, write_bytes, write_lines
from .engine.step import Step, forget_steps, run_step
from .engine.workers import Workers, open_workers
from .report.page import write_report
from .steps.backgrounds import Backgrounds
from .steps.compose import Compose
from .steps.degrade import Degrade
from .steps.enhance import Enhance
from .steps.filter import Filter
from .steps.masks import Masks
from .steps.write import Shards, write_card, write_index

log = logging.getLogger("train.synthesis")

STEPS = ("masks", "filter", "enhance", "backgrounds", "compose", "degrade", "shards")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("build", help="make FTSR, or resume making it")
    parser.add_argument("config", type=Path, help="a YAML file, see train/configs/ftsr.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value over the file, for instance samples=200 seed=1")
    parser.add_argument("--out", type=Path, help="the data set's folder, over the config's `out`")
    parser.add_argument("--ray", metavar="ADDRESS", help="work on a Ray cluster (host:port, auto), or `local`")
    parser.add_argument("--until", choices=STEPS, help="stop after this step")
    parser.add_argument("--redo", choices=STEPS, help="forget this step and all after it, and do them anew")
    parser.add_argument("--report", action="store_true", help="write report.html even before the build is whole")
    parser.set_defaults(run=run_command)


def run_command(arguments: argparse.Namespace) -> int:
    overrides = list(arguments.overrides)
    if arguments.out is not None:
        overrides.append(f"out={arguments.out}")
    config = settings.read_config(arguments.config, overrides)
    build_data_set(config, ray=arguments.ray, until=arguments.until, again=arguments.redo, report=arguments.report)
    return 0


def resolve_paths(config: SynthesisConfig) -> SynthesisConfig:
    """Make paths absolute and name the OCR engine, so that workers anywhere build the same."""

    def file(path: str) -> str:
        return str(Path(path).expanduser().resolve())

    def absolute(table: Record) -> Record:
        return {k: file(v) if k == "path" and v is not None else v for k, v in table.items()}

    reading = config.reading
    models = None if reading.models is None else file(reading.models)
    engine = ocr.open_reader(reading.engine, None if models is None else Path(models), threads=1).name
    model = config.enhance.model
    return dataclasses.replace(
        config,
        out=file(config.out),
        foregrounds=tuple(dataclasses.replace(f, source=absolute(f.source)) for f in config.foregrounds),
        backgrounds=tuple(dataclasses.replace(b, source=absolute(b.source)) for b in config.backgrounds),
        reading=dataclasses.replace(reading, engine=engine, models=models),
        enhance=dataclasses.replace(config.enhance, model=model if model == "off" else file(model)),
        segment=dataclasses.replace(
            config.segment,
            model=config.segment.model if config.segment.model == "compact" else file(config.segment.model),
            sam=None if config.segment.sam is None else file(config.segment.sam),
        ),
    )


def build_data_set(
    config: SynthesisConfig,
    *,
    ray: str | None = None,
    until: str | None = None,
    again: str | None = None,
    report: bool = False,
    quiet: bool = False,
) -> Path:
    """Build the data set, or what is missing of it; return its folder."""
    given, config = config, resolve_paths(config)
    out = Path(config.out)
    with lock_folder(out, "build"):
        steps = Steps(config, given)
        write_bytes(out / "work" / "config.json", json.dumps(settings.to_dict(config), indent=1).encode())
        if again is not None:
            forget_steps(steps.all, again)
        workers = open_workers(config.workers, ray)
        try:
            whole = steps.run(workers, until or STEPS[-1], quiet=quiet)
        finally:
            workers.close()
        if whole or report:
            write_report(out)
    log.info("%s: %s", "done" if whole else f"stopped after {until}", out)
    return out


class Steps:
    """All of them, each handed what the earlier ones found."""

    def __init__(self, config: SynthesisConfig, given: SynthesisConfig) -> None:
        self.config, self.given = config, given
        self.masks = Masks(config=config)
        self.filter = Filter(config=config, masks=self.masks)
        self.enhance = Enhance(config=config, masks=self.masks, filter=self.filter)
        self.backgrounds = Backgrounds(config=config)
        self.compose = Compose(config=config, enhance=self.enhance, backgrounds=self.backgrounds)
        self.degrade = Degrade(config=config, compose=self.compose)
        self.shards = Shards(config=config, degrade=self.degrade)

    @property
    def all(self) -> list[Step]:
        return [getattr(self, name) for name in STEPS]

    def run(self, workers: Workers, until: str, *, quiet: bool) -> bool:
        """Run from the first step to `until`; return whether the data set is complete."""
        config, done, counts = self.config, STEPS.index(until), Counter[str]()
        out = Path(config.out)

        pictures = run_step(self.masks, workers, quiet=quiet)
        found = Counter(picture["status"] for picture in pictures)
        counts.update({"text images": found.total(), "broken text images": found["broken"]})
        write_quarantine(out, pictures)
        if done < 1:
            return False
        fine = tuple(record for record in pictures if record["status"] == "ok")
        crops = run_step(dataclasses.replace(self.filter, pictures=fine), workers, quiet=quiet)
        kept = tuple(crop for crop in crops if crop["status"] == "kept")
        counts.update({"text crops": sum(1 for _ in crops), "text crops kept": len(kept)})
        if done < 2:
            return False
        enhance = dataclasses.replace(self.enhance, crops=kept)
        enhanced = run_step(enhance, workers, quiet=quiet)
        enhance.write_pool(enhanced)
        counts["text crops enhanced"] = sum(record["enhanced"] > 1 for record in enhanced)
        if done < 3:
            return False
        grounds = run_step(self.backgrounds, workers, quiet=quiet)
        self.backgrounds.write_pool(grounds)
        found = Counter(ground["status"] for ground in grounds)
        counts.update({"backgrounds": found.total(), "broken backgrounds": found["broken"]})
        counts["backgrounds kept"] = found["kept"]
        write_quarantine(out, pictures, grounds)
        if done < 4:
            return False
        for name in ("text crops", "backgrounds"):
            if not counts[f"{name} kept"]:
                write_report(out)
                raise ConfigError(f"No {name} were kept: {out}/report.html shows what was dropped and why.")
        composed = run_step(self.compose, workers, quiet=quiet)
        if done < 5:
            return False
        degraded = run_step(self.degrade, workers, quiet=quiet)
        write_index(config, composed, degraded)
        if config.write.shards and done >= 6:
            run_step(self.shards, workers, quiet=quiet)
        write_card(config, self.given, dict(counts))
        return True


def write_quarantine(out: Path, *found: Records) -> None:
    """Write quarantine.jsonl: the images that could not be used, and why."""
    names = ("foreground", "background", "index", "key", "reason")
    bad = (record for records in found for record in records if record["status"] == "broken")
    write_lines(out / "quarantine.jsonl", ({n: r[n] for n in names if n in r} for r in bad))
