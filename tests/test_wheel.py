"""The wheel holds every package and data file, and upscales from an environment that has nothing else of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from repository import ROOT


def tracked_files(*folders: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *folders], capture_output=True, text=True, check=True, cwd=ROOT)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build from a copy, so that neither build/ nor egg-info is left in the repository."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in tracked_files("tadisr", "train", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(copy),
    ]
    subprocess.run(command, check=True)
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    weights = set(tracked_files("train/weights"))  # a run starts from them, in a checkout
    assert not set(tracked_files("tadisr", "train")) - held - weights


def test_wheel_upscales_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies come from this environment by .pth files, without those of its editable installs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(command, check=True)
    Image.new("RGB", (24, 16), "white").save(tmp_path / "in.png")
    shared = Path(sysconfig.get_path("purelib"))
    (target,) = (tmp_path / "venv").rglob("site-packages")
    (target / "a_shared.pth").write_text(f"{shared}\n")
    for path in shared.glob("*.pth"):
        if "__editable__" not in path.name:
            shutil.copy(path, target)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        done = subprocess.run([python, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(tmp_path / "venv") in run("-c", "import tadisr; print(tadisr.__file__)")
    run("-m", "tadisr", "upscale", "in.png", "-o", "out.png")
    assert Image.open(tmp_path / "out.png").size == (96, 64)
    run("-m", "train.evaluate", "--help")
