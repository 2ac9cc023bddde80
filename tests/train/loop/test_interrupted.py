"""Training that is stopped, killed or damaged: one sentence, and it resumes."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fonts import FONTS
from repository import ROOT
from small_training import CONFIGS, config

from tadisr.errors import CheckpointError, ConfigError
from train.fit import run_training
from train.loop.checkpoints import read_state
from train.loop.scalars import truncate_table
from train.run_lock import lock_folder

pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")

TINY = [
    "data.crop=64", "data.workers=0", "data.backgrounds=[]", "batch=1", "log_every=1", "checkpoint_every=2", "panel=0",
    "warmup=0", "ema=0.9",
]  # fmt: skip


def command(out: Path, *overrides: str) -> list[str]:
    fonts = "[" + ", ".join(map(str, FONTS)) + "]"
    return [
        sys.executable, "-m", "train.fit", str(CONFIGS / "compact.yaml"), f"out={out}", f"data.fonts={fonts}", *TINY,
        *overrides,
    ]  # fmt: skip


def start(out: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(out, *overrides),
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_step(out: Path, process: subprocess.Popen[str], step: int) -> None:
    until = time.monotonic() + 120
    while not ((out / "log.csv").is_file() and len((out / "log.csv").read_text().splitlines()) > step):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.02)


def sentences(stderr: str) -> list[str]:
    """What was said but for the progress bar and the log."""
    lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.strip()]
    return [line for line in lines if "it/s" not in line and "s/it" not in line and not line[:4].isdigit()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of six steps."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return run_training(config(out, *TINY, "steps=6"))


@pytest.mark.parametrize(("number", "name", "code"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)])
def test_a_stopped_run_says_one_sentence_and_resumes(
    tmp_path: Path, whole: Path, number: signal.Signals, name: str, code: int
) -> None:
    """Its state is that of the step it was in; the whole process group gets Ctrl-C, as from a terminal."""
    out = tmp_path / "run"
    process = start(out, "steps=6", "checkpoint_every=100", "data.workers=1")
    wait_for_step(out, process, 2)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    (said,) = sentences(stderr)
    assert said.startswith(f"stopped by {name}. The state of step ") and "start the same command again" in said
    run_training(config(out, *TINY, "steps=6", "checkpoint_every=100"))
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_identical_runs_write_identical_files(tmp_path: Path, whole: Path) -> None:
    """Another process, in which hash maps have another order: the same bytes."""
    done = subprocess.run(command(tmp_path / "again", "steps=6"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "steps=100000")
    try:
        wait_for_step(out, process, 1)
        second = subprocess.run(command(out, "steps=2"), cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 1
        (said,) = sentences(second.stderr)
        assert said.startswith(f"error: Another run is writing to {out} (process {process.pid} on ")
    finally:
        process.kill()
        process.communicate()
    with lock_folder(out, "run"):  # the killed one's lock is stale: its process is gone
        assert json.loads((out / ".lock").read_text())["process"] == os.getpid()
        with pytest.raises(ConfigError, match="Another run is writing"), lock_folder(out, "run"):
            pass


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "random": lambda path: path.write_bytes(os.urandom(5000)),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "a list": lambda path: torch.save([1, 2], path),
    "another step": lambda path: torch.save({"step": 3, "notes": {}, "ema": None, "model": {}, "optimizer": {}}, path),
    "a bit": lambda path: path.write_bytes(flip(path.read_bytes())),
}


def flip(data: bytes) -> bytes:
    """One bit of a tensor's values, which torch itself does not notice."""
    changed = bytearray(data)
    changed[len(data) // 2] ^= 4
    return bytes(changed)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, whole: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "model.safetensors").unlink()
    DAMAGE[damage](out / "checkpoints" / "0000006" / "state.pt")
    run_training(config(out, *TINY, "steps=6"))
    assert "0000006/state.pt" in caplog.text and "resumes from the checkpoint before it" in caplog.text
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (out / "checkpoints" / "0000006.damaged").is_dir()
    assert read_state(out / "checkpoints" / "0000006" / "state.pt", 6)["step"] == 6


def test_no_intact_checkpoint_is_said(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for state in (out / "checkpoints").glob("*/state.pt"):
        state.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"None of the 3 checkpoints in .* is intact: begin anew with --restart"):
        run_training(config(out, *TINY, "steps=6"))


def test_a_checkpoint_of_another_model_is_said(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with pytest.raises(CheckpointError, match="does not fit the config"):
        run_training(config(out, *TINY, "steps=8", "model.decoder.text_channels=[16,16,16]"))


def test_a_damaged_log_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,total\n1,0.5\n\xff\xfe,garbage\n2,0.4\nx,y\n3,0.3\n4,0.")
    truncate_table(path, 2)
    assert path.read_bytes() == b"step,total\n1,0.5\n2,0.4\n"


@pytest.mark.parametrize("limit", [3_000_000, 8_000_000], ids=["weights", "state"])
def test_a_full_disk_is_one_sentence(tmp_path: Path, whole: Path, limit: int) -> None:
    """By the system's limit on a file's size, which fails a write as a full disk does; the run resumes afterwards."""
    out = tmp_path / "run"
    done = subprocess.run(
        command(out, "steps=6"), cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 1
    (said,) = sentences(done.stderr)
    assert said.startswith("error: ") and "File too large" in said and "start the same command again" in said
    run_training(config(out, *TINY, "steps=6"))
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a file system that nobody may write to")
def test_a_read_only_folder_is_one_sentence() -> None:
    done = subprocess.run(command(Path("/sys/kernel/tadisr")), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    (said,) = sentences(done.stderr)
    assert said.startswith("error: /sys/kernel/tadisr: ") and "choose another out" in said.lower()


def test_a_dead_data_worker_is_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "steps=100000", "data.workers=1")
    wait_for_step(out, process, 1)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    (said,) = sentences(stderr)
    assert said.startswith("error: A data worker died") and "data.workers=N" in said
