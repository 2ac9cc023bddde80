"""Run cases in worker processes that are killed when they hang, and judge what came of them."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIMIT = 10.0  # seconds of computing that a case may take, whatever else the machine does
IDLE = 60.0  # seconds in which it may do nothing
MEMORY = 1 << 30  # bytes beyond what a good file takes


@dataclass
class Worker:
    """A process of `worker.py`; a hanging or dead one is replaced."""

    process: subprocess.Popen[str] | None = None
    errors: list[str] = field(default_factory=list)

    def run(self, case: dict[str, str], limit: float = LIMIT) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            self.start()
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(case) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"outcome": "died", "message": "the worker was gone", "seconds": 0, "peak": 0, "outside": []}
        begun, computed = time.monotonic(), self.computed()
        while not select.select([self.process.stdout], [], [], 0.2)[0]:
            spent = self.computed() - computed
            if self.process.poll() is None and spent < limit and time.monotonic() - begun < IDLE + 10 * spent:
                continue
            code = self.process.poll()
            self.stop()
            outcome, what = ("hang", f"{spent:.0f} s of computing") if code is None else ("died", f"exit code {code}")
            return {"outcome": outcome, "message": what, "seconds": limit, "peak": 0, "outside": []}
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            return {"outcome": "died", "message": f"exit code {code}", "seconds": 0, "peak": 0, "outside": []}
        return json.loads(line)

    def computed(self) -> float:
        """Seconds of processor time that the process has had."""
        assert self.process is not None
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except FileNotFoundError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self) -> None:
        paths = [str(HERE.parents[1]), str(HERE.parent / "fixtures"), str(HERE)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env=environment,
        )  # fmt: skip

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass
class Tally:
    """What came of a number of cases; `problems` are those that no case may be."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest: float = 0.0
    most: int = 0  # bytes beyond what a good file takes

    def add(self, label: str, result: dict[str, Any], usual: int) -> None:
        outcome = result["outcome"]
        more = max(0, result["peak"] - usual)
        self.slowest, self.most = max(self.slowest, result["seconds"]), max(self.most, more)
        if result["outside"]:
            outcome = "outside"
        elif more > MEMORY:
            outcome = "memory"
        self.counts[outcome] += 1
        if outcome not in ("answer", "sentence"):
            where = result["outside"][:3] if result["outside"] else ""
            self.problems.append(f"{label}: {outcome} {where} {result['message']}")

    def row(self) -> str:
        total = self.counts.total()
        rest = total - self.counts["answer"] - self.counts["sentence"]
        return (
            f"| {self.name} | {total} | {self.counts['answer']} | {self.counts['sentence']} | {rest} | "
            f"{self.slowest:.1f} s | {self.most / 2**20:.0f} MiB |"
        )


TALLIES: list[Tally] = []  # of this session, for the table at its end
TABLE = "| files | cases | answered | refused in a sentence | anything else | slowest | memory beyond a good file's |\n"
TABLE += "| --- | --- | --- | --- | --- | --- | --- |"
