"""Kill a training and a data build at random moments, again and again, and compare what comes of it with an undisturbed one.

    python tests/measure/kills.py --training 50 --synthesis 50

Prints one line each: kills, starts, and whether the final files are the same to the byte.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures")]

from fonts import FONTS  # noqa: E402
from small_ftsr import digests, write_config, write_pictures  # noqa: E402


def training(out: Path) -> list[str]:
    fonts = "[" + ", ".join(map(str, FONTS)) + "]"
    return [
        sys.executable, "-m", "train.fit", "train/configs/compact.yaml", f"out={out}", f"data.fonts={fonts}", "data.crop=64",
        "data.workers=0", "data.backgrounds=[]", "batch=1", "log_every=1", "checkpoint_every=1", "panel=0", "warmup=0",
        "ema=0.9", "steps=60",
    ]  # fmt: skip


def synthesis(config: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "train.synthesis", "build", str(config), "--out", str(out), "workers=0", "samples=24"]


def run_killed(command: list[str], kills: int, usual: float, generator: random.Random) -> tuple[int, int]:
    """Start the command until it ends by itself, killing it at random moments. (kills, starts)."""
    done = starts = 0
    while True:
        starts += 1
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done < kills:
            try:
                process.wait(generator.uniform(0.2, 1.0) * usual)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                done += 1
                continue
        if process.wait() != 0:
            raise SystemExit(f"start {starts} after {done} kills ended with {process.returncode}: {command}")
        return done, starts  # fewer kills where it ended before its time came


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=int, default=3)
    parser.add_argument("--synthesis", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.training:
            begun = time.monotonic()
            subprocess.run(training(folder / "whole"), cwd=ROOT, check=True, capture_output=True)
            usual = (time.monotonic() - begun) / 4  # a few steps, then the end
            kills, starts = run_killed(training(folder / "killed"), arguments.training, usual, generator)
            same = (folder / "whole/model.safetensors").read_bytes() == (
                folder / "killed/model.safetensors"
            ).read_bytes()
            print(
                f"training: {kills} kills, {starts} starts, weights {'the same bytes' if same else 'DIFFER'}",
                flush=True,
            )
        if arguments.synthesis:
            (folder / "pictures").mkdir()
            config = write_config(folder, write_pictures(folder / "pictures"))
            begun = time.monotonic()
            subprocess.run(synthesis(config, folder / "one"), cwd=ROOT, check=True, capture_output=True)
            usual = (time.monotonic() - begun) / 2
            kills, starts = run_killed(synthesis(config, folder / "two"), arguments.synthesis, usual, generator)
            one, two = digests(folder / "one"), digests(folder / "two")
            same = {k: v for k, v in one.items() if k != "report.html"} == {
                k: v for k, v in two.items() if k != "report.html"
            }
            print(
                f"synthesis: {kills} kills, {starts} starts, files {'the same bytes' if same else 'DIFFER'}", flush=True
            )


if __name__ == "__main__":
    main()
