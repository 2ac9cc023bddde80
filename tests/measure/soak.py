"""Upscale many times in one process, or run many prompts in one ComfyUI, and plot what memory, threads and files do.

    python tests/measure/soak.py --upscales 1000 --keep soak.json
    python tests/measure/soak.py --prompts 300 --keep soak.json --plot docs/lab/soak.svg

--keep adds the samples to a file, and plots those of earlier calls too.

Prints the growth from a tenth of the way to the end of resident memory, threads, descriptors and temporary files.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "fixtures"), str(ROOT / "tests" / "host")]

Sample = dict[str, float]


def sample(process: int) -> Sample:
    """Resident memory in MiB, threads, open descriptors of a process, and files in the temporary folder."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
        if ":" in line
    )
    return {
        "memory": int(fields["VmRSS"].split()[0]) / 1024,
        "threads": int(fields["Threads"]),
        "descriptors": len(os.listdir(f"/proc/{process}/fd")),
        "files": len(os.listdir(tempfile.gettempdir())),
    }


def upscales(count: int) -> list[Sample]:
    import torch

    import tadisr

    model, found = tadisr.load(), []
    for number in range(count):
        height, width = 8 + number % 40, 8 + number * 7 % 40
        tadisr.upscale(model, torch.rand(1, 3, height, width))
        if number % 25 == 0:
            gc.collect()
        found.append(sample(os.getpid()))
    return found


def prompts(count: int) -> list[Sample]:
    from browser import server
    from comfy_host import node

    found = []
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as host:
        for number in range(count):
            prompt: dict[str, Any] = {
                "image": node("EmptyImage", width=12 + number % 9, height=9, batch_size=1, color=number),
                "model": node("TADiSRLoader", model="compact (built in)", dtype="fp32"),
                "up": node("TADiSRUpscale", image=["image", 0], model=["model", 0], scale=4.0, tile=128, overlap=32,
                           tile_batch=1, color="off"),
                "save": node("PreviewImage", images=["up", 0]),
            }  # fmt: skip
            result = host.run(prompt, timeout=120)
            assert result.last == "execution_success", result.error
            found.append(sample(host.process.pid))
    return found


def growth(found: list[Sample], name: str) -> float:
    """The last tenth's mean against the second tenth's, the first being the start."""
    part = max(1, len(found) // 10)
    early = fmean(one[name] for one in found[part : 2 * part] or found[:1])
    return fmean(one[name] for one in found[-part:]) / early - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upscales", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    kept = arguments.keep is not None and arguments.keep.exists()
    runs: dict[str, list[Sample]] = json.loads(arguments.keep.read_text("utf-8")) if kept else {}
    if arguments.upscales:
        runs[f"{arguments.upscales} upscales in one process"] = upscales(arguments.upscales)
    if arguments.prompts:
        runs[f"{arguments.prompts} prompts in one ComfyUI"] = prompts(arguments.prompts)
    for title, found in runs.items():
        rows = ", ".join(f"{name} {growth(found, name):+.1%} (end {found[-1][name]:.0f})" for name in found[0])
        print(f"{title}: {rows}", flush=True)
    if arguments.keep is not None:
        arguments.keep.write_text(json.dumps(runs), encoding="utf-8")
    if arguments.plot is not None:
        draw(runs, arguments.plot)


def draw(runs: dict[str, list[Sample]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(runs), 2, figsize=(10, 3 * len(runs)), squeeze=False)
    for (left, right), (title, found) in zip(axes, runs.items(), strict=True):
        left.plot([one["memory"] for one in found])
        left.set(title=title, ylabel="resident memory, MiB", ylim=(0, None))
        for name in ("threads", "descriptors"):
            right.plot([one[name] for one in found], label=name)
        right.set(ylim=(0, None))
        right.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
