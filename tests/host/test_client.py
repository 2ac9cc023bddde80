"""The headless client of docs/user/api.md against a real ComfyUI."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_host import ROOT, Comfy
from PIL import Image

from tadisr.client import upscale


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
        asyncio.run(upscale(comfy.url, tmp_path / "photo.png", tmp_path / "out", scale=9.0))
    with pytest.raises(RuntimeError, match="0 to half the tile"):
        asyncio.run(upscale(comfy.url, tmp_path / "photo.png", tmp_path / "out", tile=256, overlap=200))


def test_the_client_is_short() -> None:
    assert len((ROOT / "tadisr" / "client.py").read_text().splitlines()) <= 80
