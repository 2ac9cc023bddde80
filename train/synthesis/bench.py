"""Measure the speed and memory of each step: `python -m train.synthesis bench CONFIG --samples N`.

The steps run one after the other in this process, so that a rate is a core's; then in the process pool, to see what
more of them bring. `a core` is records for a second of processor time, which a busy machine leaves as it is.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from . import config as settings
from .build import STEPS, Steps, resolve_paths
from .engine.workers import Here, Task, Workers, open_workers


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("bench", help="samples a second of each step, alone and in the pool; memory")
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value over the file")
    parser.add_argument("--samples", type=int, default=100, help="how many to compose and degrade (100)")
    parser.add_argument("--pool", type=int, metavar="N", help="then again with N processes, and the gain")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.set_defaults(run=run_command)


class Watched:
    """Workers whose time and memory is written down: of this process, and of the processes it started."""

    def __init__(self, inner: Workers) -> None:
        self.inner = inner
        self.rows: list[dict[str, float]] = []
        self.memory: list[float] = []

    def map(self, task: Task, chunks: dict[int, Any], *, on_device: int | None) -> Iterator[tuple[int, Any]]:
        begun, worked, records = time.perf_counter(), measure_cpu_time(), 0
        self.memory = []
        for key, found in self.inner.map(task, chunks, on_device=on_device):
            records += len(found)
            self.memory.append(measure_memory())
            yield key, found
        seconds = time.perf_counter() - begun
        spent = measure_cpu_time() - worked
        rates = {"rate": records / max(seconds, 1e-9), "core": records / max(spent, 1e-9)}
        self.rows.append({"records": records, "seconds": seconds, **rates, **summarize_memory(self.memory)})

    def close(self) -> None:
        self.inner.close()


def list_processes() -> Iterator[psutil.Process]:
    """List this process and its children."""
    own = psutil.Process()
    yield own
    yield from own.children(recursive=True)


def measure_memory() -> float:
    """Measure the resident memory of these processes in MB."""
    total = 0.0
    for process in list_processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss / 2**20
    return total


def measure_cpu_time() -> float:
    """Measure the CPU seconds of these processes."""
    total = 0.0
    for process in list_processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def summarize_memory(memory: list[float]) -> dict[str, float]:
    """Return the medians over the second and the last tenth of a step: its memory, and whether it grows."""
    if not memory:
        return {"early": 0.0, "late": 0.0, "peak": 0.0}
    tenth = max(1, len(memory) // 10)
    early = memory[tenth : 2 * tenth] or memory[:1]
    return {"early": float(np.median(early)), "late": float(np.median(memory[-tenth:])), "peak": max(memory)}


def measure_steps(config: settings.SynthesisConfig, workers: Workers) -> list[dict[str, Any]]:
    """Time every step with `workers`, and record its memory."""
    watched = Watched(workers)
    try:
        Steps(config, config).run(watched, STEPS[-1], quiet=True)
    finally:
        watched.close()
    return [{"step": name, **row} for name, row in zip(STEPS, watched.rows, strict=False)]


def run_command(arguments: argparse.Namespace) -> int:
    results: dict[str, Any] = {"cores": os.cpu_count(), "samples": arguments.samples}
    ways: list[tuple[str, Workers]] = [("one core", Here())]
    if arguments.pool:
        ways.append((f"{arguments.pool} processes", open_workers(arguments.pool)))
    for name, workers in ways:
        with tempfile.TemporaryDirectory(prefix="ftsr-bench-") as folder:
            config = resolve_paths(settings.read_config(arguments.config, [*arguments.overrides, f"out={folder}"]))
            rows = measure_steps(dataclasses.replace(config, samples=arguments.samples), workers)
        results[name] = rows
        print(name)
        print(
            f"{'step':12} {'records':>8} {'seconds':>9} {'a second':>9} {'a core':>8} {'MB early':>9} {'late':>7} {'peak':>7}"
        )
        for row in rows:
            print(
                f"{row['step']:12} {row['records']:8d} {row['seconds']:9.1f} {row['rate']:9.2f} {row['core']:8.2f} "
                f"{row['early']:9.0f} {row['late']:7.0f} {row['peak']:7.0f}"
            )
    if arguments.pool:
        pairs = zip(results["one core"], results[ways[1][0]], strict=True)
        print("gain of the pool: " + ", ".join(f"{a['step']} {b['rate'] / a['rate']:.2f}" for a, b in pairs))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0
