"""Print the memory that upscaling takes beyond its input and output, as a Markdown table.

    MALLOC_MMAP_THRESHOLD_=262144 python tests/measure/peak_memory.py library        # `tadisr.upscale`
    MALLOC_MMAP_THRESHOLD_=262144 python tests/measure/peak_memory.py command out    # 100 MP to 400 MP; `out png`: PNG alone

Measured as the peak of this process, with a network that returns its input. The setting makes glibc return freed memory at
once; without it the figures count memory that is free again. Linux only: reads /proc.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

import tadisr.cli.upscale as command
from tadisr import upscale
from tadisr.cli import main

TILE = 768 * 768 * 4 * 4  # bytes of one tile's image and mask
SIDE = 10_000  # pixels of the command's input


class Case(NamedTuple):
    """Input (batch, channels, height, width), and options of `upscale`."""

    batch: int
    channels: int
    height: int
    width: int
    scale: float
    color_fix: str
    fidelity: float

    @property
    def held(self) -> int:
        """Bytes of the input and the output, float32, mask included."""
        made = round(self.height * self.scale) * round(self.width * self.scale) * (self.channels + 1)
        return 4 * self.batch * (self.channels * self.height * self.width + made)

    @property
    def bound(self) -> int:
        """Bytes that may be held beside them: half of them, and two tiles."""
        return self.held // 2 + 2 * TILE


CASES = [
    Case(1, 3, 1000, 750, 4, "off", 0), Case(1, 3, 1000, 750, 4, "wavelet", 0), Case(1, 3, 1000, 750, 4, "adain", 0.5),
    Case(1, 3, 1000, 750, 2.5, "wavelet", 0), Case(1, 3, 1000, 750, 1, "off", 0), Case(1, 3, 1000, 750, 1, "wavelet", 0.5),
    Case(1, 3, 1000, 750, 1, "adain", 0), Case(16, 3, 256, 256, 1, "off", 0), Case(16, 3, 256, 256, 1, "wavelet", 0),
    Case(1, 4, 1000, 750, 4, "off", 0), Case(4, 4, 500, 375, 1, "off", 0), Case(1, 4, 2000, 1500, 1, "wavelet", 0.5),
]  # fmt: skip
QUICK = [
    Case(1, 3, 1000, 750, 1, "off", 0),
    Case(1, 3, 1000, 750, 1, "wavelet", 0.5),
    Case(16, 3, 256, 256, 1, "off", 0),
]


class ReturnInput:
    """A network that takes no memory of its own."""

    config = SimpleNamespace(overlap=256, multiple=16, name="stub", decoder=SimpleNamespace(trunk=None))
    device = torch.device("cpu")
    dtype = torch.float32
    gives_certainty = False

    def __call__(self, image: Tensor, guide: Tensor | None) -> SimpleNamespace:
        return SimpleNamespace(image=image, mask_logits=image[:, :1], log_variance=None)


def read_peak(*, reset: bool = False) -> int:
    """The process's highest resident size in bytes; `reset` starts it anew from the present one."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure_library(case: Case) -> int:
    """Bytes beyond input and output in one call of `upscale`."""
    options = {"scale": case.scale, "color_fix": case.color_fix, "fidelity": case.fidelity}
    upscale(ReturnInput(), torch.rand(1, case.channels, 300, 300), **options)  # what is loaded at the first use
    image = torch.rand(case.batch, case.channels, case.height, case.width)
    before = read_peak(reset=True)
    result = upscale(ReturnInput(), image, **options)
    return read_peak() - before - result.image.nbytes - result.mask.nbytes


def measure_command(folder: Path, suffix: str) -> tuple[int, float]:
    """Bytes and seconds that `python -m tadisr upscale` takes from 100 MP to 400 MP; the input in 8 bits counts."""
    Image.MAX_IMAGE_PIXELS = None
    source, target = folder / "input.png", folder / f"output.{suffix}"
    if not source.exists():
        ramp = Image.radial_gradient("L").resize((SIDE, SIDE))
        Image.merge("RGB", [ramp, ramp.rotate(30), ramp.rotate(60)]).save(source, compress_level=1)
        del ramp
    command.load = lambda *_, **__: ReturnInput()
    begun, before = time.monotonic(), read_peak(reset=True)
    arguments = ["upscale", source, "-o", target, "--scale", "2", "--tile", "1536", "--overlap", "64", "--quiet"]
    assert main([str(argument) for argument in arguments]) == 0
    return read_peak() - before, time.monotonic() - begun


def print_library(cases: list[Case]) -> None:
    print("| batch, channels, h, w | scale | colour fix | fidelity | in + out, MB | beyond, MB | bound, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in cases:
        shape = f"{case.batch}, {case.channels}, {case.height}, {case.width}"
        figures = " | ".join(f"{value / 1e6:.1f}" for value in (case.held, measure_library(case), case.bound))
        print(f"| {shape} | {case.scale:g} | {case.color_fix} | {case.fidelity:g} | {figures} |", flush=True)


def print_command(folder: Path, suffixes: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    print("| 100 MP to 400 MP | peak, MB | seconds |\n| --- | --- | --- |")
    for suffix in suffixes:
        size, seconds = measure_command(folder, suffix)
        print(f"| {suffix} | {size / 1e6:.0f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "command":
        print_command(Path(sys.argv[2]), sys.argv[3:] or ["png", "tif"])
    else:
        print_library(QUICK if "quick" in sys.argv else CASES)
