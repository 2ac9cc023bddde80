"""FTSR's build as others start it: killed at any moment, on a Ray cluster, watched by its bench. The same bytes always."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from repository import ROOT
from small_ftsr import FONTS, digests, write_config

from train.synthesis.__main__ import main
from train.synthesis.engine.journal import read_records

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")
pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")


def command(config: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "train.synthesis", "build", str(config), "--out", str(out), *more]


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bytes(made: Path, pictures: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, in a pool of two processes; then to the end."""
    config, out, dice = write_config(tmp_path, pictures, workers=2), tmp_path / "ftsr", random.Random(5)
    killed = 0
    for _ in range(6):
        before, wanted = progress(out), dice.randint(2, 8)
        process = subprocess.Popen(command(config, out), cwd=ROOT, stderr=subprocess.PIPE)
        while process.poll() is None and progress(out) < before + wanted:
            time.sleep(0.01)
        time.sleep(dice.random() * 0.3)
        workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive  # no orphans
        if (out / "index.jsonl").exists():
            break
    assert killed >= 3
    done = subprocess.run(command(config, out), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = digests(out)
    assert found == digests(made)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_it_says_one_sentence_and_resumes(
    number: signal.Signals, made: Path, pictures: Path, tmp_path: Path
) -> None:
    config, out = write_config(tmp_path, pictures, workers=2), tmp_path / "ftsr"
    process = subprocess.Popen(command(config, out), cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8")
    while process.poll() is None and progress(out) < 4:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and "Traceback" not in said
    assert said.splitlines()[-1].startswith("stopped by") and "same command again to resume" in said
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    done = subprocess.run(command(config, out), cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert digests(out) == digests(made)


def progress(out: Path) -> int:
    return sum(len(read_records(path)) for path in (out / "work").glob("*/journal.jsonl"))


RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # else it leaves a busy machine to everybody else


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head with one core, started as docs/training/data.md tells: its address, and the environment that has its token."""
    (tmp_path / "token").write_text(secrets.token_hex(32))
    environment = {**os.environ, **RAY, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1"]
    options = [f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen([*start, *options], env=environment, stdout=log, stderr=log)
    until = time.time() + 120
    while "Ray runtime started" not in (tmp_path / "ray.log").read_text():
        assert head.poll() is None and time.time() < until, (tmp_path / "ray.log").read_text()
        time.sleep(0.2)
    yield f"127.0.0.1:{port}", environment
    head.terminate()  # `--block` takes the cluster with it; `ray stop` would stop every cluster of the machine
    head.wait(60)


def by_ray(address: str, environment: dict[str, str], pictures: Path, folder: Path) -> Path:
    config, out = write_config(folder, pictures), folder / "ftsr"
    done = subprocess.run(
        command(config, out, "--ray", address), cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray (200 MB) is not installed: pip install ray")
class TestRay:
    def test_a_local_one_writes_the_same_bytes(self, made: Path, pictures: Path, tmp_path: Path) -> None:
        assert digests(by_ray("local", {**os.environ, **RAY}, pictures, tmp_path)) == digests(made)

    def test_a_started_cluster_too(
        self, cluster: tuple[str, dict[str, str]], made: Path, pictures: Path, tmp_path: Path
    ) -> None:
        assert digests(by_ray(*cluster, pictures, tmp_path)) == digests(made)


@pytest.mark.slow
def test_the_bench_has_a_row_for_every_step(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, pictures)
    assert main(["bench", str(config), "--samples", "3", "--json", str(tmp_path / "bench.json")]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["one core"]
    assert [row["step"] for row in rows] == [
        "masks",
        "filter",
        "enhance",
        "backgrounds",
        "compose",
        "degrade",
        "shards",
    ]
    assert all(row["rate"] > 0 and row["late"] > 0 for row in rows) and "degrade" in capsys.readouterr().out
