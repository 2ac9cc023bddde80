"""The headless client of docs/user/api.md against a real ComfyUI."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comfy_host import ROOT, Comfy
from PIL import Image

from tadisr.client import run_workflow


def test_the_client_as_a_command(comfy: Comfy, tmp_path: Path) -> None:
    Image.effect_noise((20, 12), 50).convert("RGB").save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "tadisr.client", str(tmp_path / "photo.png"), "-o", str(tmp_path / "out")]
    run = subprocess.run(
        [*command, "--server", comfy.url, "--scale", "2"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    files = [Path(line) for line in run.stdout.split()]
    assert len(files) == 2 and "tile 1 of 1" in run.stderr
    assert [Image.open(file).size for file in files] == [(40, 24), (40, 24)]


def test_refusals_and_failures_are_comfys_own_sentences(comfy: Comfy, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(RuntimeError, match="bigger than max"):
        asyncio.run(run_workflow(comfy.url, tmp_path / "photo.png", tmp_path / "out", scale=9.0))
    with pytest.raises(RuntimeError, match="smaller than min"):
        asyncio.run(run_workflow(comfy.url, tmp_path / "photo.png", tmp_path / "out", tile=-1))
    with pytest.raises(RuntimeError, match="tile is 16, expected 128 or more"):  # the node's own
        asyncio.run(run_workflow(comfy.url, tmp_path / "photo.png", tmp_path / "out", tile=16))


def run_client(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tadisr.client", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_no_server_and_no_file_are_one_sentence(comfy: Comfy, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    for arguments, message in (
        ([tmp_path / "photo.png", "--server", "http://127.0.0.1:9"], "No ComfyUI answers at http://127.0.0.1:9"),
        ([tmp_path / "nothing.png", "--server", comfy.url], "nothing.png."),
    ):
        done = run_client(*arguments, "-o", tmp_path / "out")
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_prompt_that_is_deleted_from_the_queue(comfy: Comfy, tmp_path: Path) -> None:
    """Behind a long one, so that it waits; then the queue is cleared."""
    Image.effect_noise((900, 900), 50).convert("RGB").save(tmp_path / "long.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "tadisr.client", "--server", comfy.url, "-o", str(tmp_path / "out")]
    long = subprocess.Popen([*command, str(tmp_path / "long.png")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not comfy.get("/queue")["queue_running"]:
        time.sleep(0.1)
    waiting = subprocess.Popen([*command, str(tmp_path / "photo.png")], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not comfy.get("/queue")["queue_pending"]:
        time.sleep(0.1)
    comfy.post("/queue", {"clear": True})
    _, error = waiting.communicate(timeout=60)
    assert waiting.returncode == 1 and error.strip() == "error: The prompt was removed from ComfyUI's queue."
    comfy.post("/interrupt", {})
    long.communicate(timeout=120)
    assert long.returncode == 1


def test_the_client_is_short() -> None:
    assert len((ROOT / "tadisr" / "client.py").read_text().splitlines()) <= 125
