"""Files through `upscale_files`: what a kill or an interrupt leaves, and how a second run resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from repository import ROOT
from torch import Tensor

from tadisr.errors import ConfigError
from tadisr.files.plan import Job, make_plan
from tadisr.files.upscale import Results, Watcher, summarize, upscale_files
from tadisr.inference.tiling import Strip
from tadisr.inference.time_left import TimeLeft, format_duration

COUNT = 100


def enlarge(image: Tensor, **_: Any) -> Iterator[Strip]:
    """What the network would give, by repetition alone."""
    pixels = image[0].float().div(255).permute(1, 2, 0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    yield Strip(0, 0, pixels, torch.zeros(pixels.shape[:2]))


def write_images(folder: Path, count: int) -> None:
    for i in range(count):
        path = folder / ("" if i % 3 else "deep") / f"scan_{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + i % 5, 6 + i % 4), (2 * i, 90, 40)).save(path)


def start(source: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tadisr", "upscale", str(source), "-o", str(out), "--skip-existing"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_folder_of_100_images_resumes_after_a_kill(tmp_path: Path) -> None:
    """The command is killed when 20 results are there: all of them are whole, and the second run makes the other 80."""
    source, out = tmp_path / "in", tmp_path / "out"
    write_images(source, COUNT)
    process = start(source, out)
    begun = time.monotonic()
    while len(list(out.rglob("*.png"))) < 20 and time.monotonic() - begun < 120:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert 20 <= len(first) < COUNT
    for path in first:
        Image.open(path).load()
    process = start(source, out)
    said = process.communicate(timeout=240)[0].decode()
    left = COUNT - len(first)
    assert f"{left} of {left} images upscaled" in said and f"{len(first)} skipped, which exist" in said
    results = {path.relative_to(out): path for path in out.rglob("*.png")}
    assert results.keys() == {path.relative_to(source) for path in source.rglob("*.png")}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in first.items())
    for name, path in results.items():
        small = Image.open(source / name)
        assert Image.open(path).size == (4 * small.width, 4 * small.height)


class Interrupting(Watcher):
    """Interrupts when so many images have begun."""

    def __init__(self, number: int) -> None:
        self.left, self.done = number, []

    def begin(self, job: Job) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def written(self, job: Job) -> None:
        self.done.append(job.source)


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    write_images(tmp_path / "in", 6)
    plan = make_plan([str(tmp_path / "in")], tmp_path / "out", skip_existing=True)
    watcher = Interrupting(3)
    with pytest.raises(KeyboardInterrupt):
        upscale_files(plan, enlarge, Results(), watcher)
    assert watcher.done == [job.source for job in plan.jobs[:3]]
    rest = make_plan([str(tmp_path / "in")], tmp_path / "out", skip_existing=True)
    assert rest.jobs == plan.jobs[3:]
    summary = upscale_files(rest, enlarge, Results())
    assert "3 of 3 images upscaled" in summarize(summary, rest, tmp_path / "out")


def test_pages_and_masks_are_complete_when_the_first_file_is(tmp_path: Path) -> None:
    """Of three pages the second one fails: a second run does not take the first page for the whole."""
    pages = [Image.new("RGB", (8, 6), color) for color in ("red", "green", "blue")]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    plan = make_plan([str(tmp_path / "pages.tif")], tmp_path / "out", mask=True, skip_existing=True)
    seen = []

    def interrupted(image: Tensor, **_: Any) -> Iterator[Strip]:
        seen.append(image)
        if len(seen) == 2:
            raise KeyboardInterrupt
        yield from enlarge(image)

    with pytest.raises(KeyboardInterrupt):
        upscale_files(plan, interrupted, Results(mask=True))
    again = make_plan([str(tmp_path / "pages.tif")], tmp_path / "out", mask=True, skip_existing=True)
    assert again.jobs == plan.jobs and not again.skipped
    upscale_files(again, enlarge, Results(mask=True))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [f"pages_000{i}{end}.png" for i in (1, 2, 3) for end in ("", "_mask")]
    assert make_plan([str(tmp_path / "pages.tif")], tmp_path / "out", skip_existing=True).jobs == []


def test_quality_is_checked() -> None:
    with pytest.raises(ConfigError, match="quality is 0, expected 1 to 100"):
        Results(quality=0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (780, "13 min"), (5400, "1 h 30 min"), (9000, "2 h 30 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_time_left_follows_the_mean_speed() -> None:
    now = [100.0]
    left = TimeLeft(lambda: now[0])
    now[0] += 43 * 5.2
    assert left.describe(43, 192, "tile") == "tile 43 of 192, 13 min left"
    now[0] += 149 * 5.2
    assert left.describe(192, 192, "tile") == "192 tiles in 17 min"
