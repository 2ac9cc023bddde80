"""Several processes, and one that is killed: real ones, over gloo."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from fonts import FONTS
from repository import ROOT
from safetensors.torch import load_file
from small_training import config, read_losses

from tadisr.checkpoints import adapter
from train.fit import run_training

pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")

ONE_STEP = [
    "steps=1",
    "ema=0.9",
    "clip=1e9",
    "data.workers=0",
    "panel=1",
    "panel_every=9",
    "validate={every: 1, pictures: 3}",
]
ENV = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


def arguments(out: Path, *overrides: str) -> list[str]:
    fonts = "[" + ", ".join(map(str, FONTS)) + "]"
    common = [f"out={out}", f"data.fonts={fonts}", "data.backgrounds=[]", "data.crop=64", "log_every=1", "warmup=0"]
    return ["train/configs/compact.yaml", *common, *overrides]


def launch(program: list[str], out: Path, *overrides: str) -> None:
    """Two processes; torchrun is what accelerate launch starts too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    subprocess.run([*torchrun, *program, *arguments(out, *overrides)], cwd=ROOT, env=ENV, check=True, timeout=600)


def first_moments(out: Path) -> dict[str, torch.Tensor]:
    """After one step a tenth of the gradient, by Adam's definition."""
    state = torch.load(out / "checkpoints" / "0000001" / "state.pt", weights_only=True)
    return {name: value["exp_avg"] for name, value in state["optimizer"]["state"].items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process with the doubled batch."""
    return run_training(config(tmp_path_factory.mktemp("alone") / "run", *ONE_STEP, "batch=2"))


@pytest.mark.parametrize(
    "program",
    [["-m", "train.fit"], pytest.param(["tests/fixtures/fsdp_on_cpu.py"], marks=pytest.mark.slow)],
    ids=["ddp", "fsdp"],
)
def test_two_processes_are_one_with_the_doubled_batch(program: list[str], alone: Path, tmp_path: Path) -> None:
    launch(program, tmp_path / "run", *ONE_STEP, "batch=1")
    one, two = first_moments(alone), first_moments(tmp_path / "run")
    assert one.keys() == two.keys() and len(one) > 400
    for name, moment in one.items():
        difference = (two[name] - moment).abs().max()
        assert difference <= 1e-4 * moment.abs().max() + 1e-9, name
    for table in ("log.csv", "validation.csv"):
        rows = [[(folder / table).read_text().splitlines()] for folder in (alone, tmp_path / "run")]
        for ours, theirs in zip(rows[0][0][1:], rows[1][0][1:], strict=True):
            values = [
                [float(v) for v in row.split(",")[: -2 if table == "log.csv" else None]] for row in (ours, theirs)
            ]
            assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert load_file(alone / "model.safetensors").keys() == load_file(tmp_path / "run" / "model.safetensors").keys()


@pytest.mark.slow
def test_a_split_run_resumes(tmp_path: Path) -> None:
    """FSDP: two steps at once, and one, then one more from what was saved."""
    options = ["ema=0.9", "data.workers=0", "panel=1", "panel_every=9", "batch=1", "schedule=constant"]
    launch(["tests/fixtures/fsdp_on_cpu.py"], tmp_path / "whole", *options, "steps=2")
    launch(["tests/fixtures/fsdp_on_cpu.py"], tmp_path / "parts", *options, "steps=1")
    launch(["tests/fixtures/fsdp_on_cpu.py"], tmp_path / "parts", *options, "steps=2")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the runs in processes of their own: another number of threads adds in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_killed_it_resumes_as_if_nothing_had_been(tmp_path: Path) -> None:
    """kill -9 to the process and its workers in the middle of a run; the same losses and weights to the last bit."""
    options = [
        "steps=6",
        "batch=2",
        "checkpoint_every=2",
        "panel_every=9",
        "panel=1",
        "validate={every: 2, pictures: 1}",
    ]
    whole = run_training(config(tmp_path / "whole", *options, "data.workers=0"))
    out = tmp_path / "parts"
    command = [sys.executable, "-m", "train.fit", *arguments(out, *options, "data.workers=2")]
    with subprocess.Popen(command, cwd=ROOT, env=ENV, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        until = time.time() + 300
        while time.time() < until and not (
            (out / "log.csv").exists() and len((out / "log.csv").read_text().splitlines()) > 3
        ):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (out / "checkpoints" / "0000006").exists()
    (out / "checkpoints" / ".0000004.part").mkdir(exist_ok=True)  # as if it had been writing
    parts = run_training(config(out, *options, "data.workers=0"))

    assert [row[0] for row in read_losses(parts)] == ["1", "2", "3", "4", "5", "6"]
    for table in ("log.csv", "validation.csv"):
        assert read_losses(whole, table) == read_losses(parts, table)
    one, other = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install -e '.[cuda]'")
def test_zero_2_has_the_losses_of_a_plain_run(tmp_path: Path) -> None:
    """One process, three steps, then one more from what was saved. Without a GPU accelerate counts one process of two."""
    options = ["data.workers=0", "panel=1", "panel_every=9", "batch=1", "clip=1.0", "ema=0.9", "schedule=constant"]
    run_training(config(tmp_path / "plain", *options, "steps=4", "log_every=1", "warmup=0"))
    environment = {k: v for k, v in ENV.items() if k != "ACCELERATE_USE_CPU"}  # with it accelerate leaves DeepSpeed out
    environment |= {"DS_ACCELERATOR": "cpu"}
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision=no", "--main_process_port=0"]
    where = ["--config_file=train/configs/accelerate/zero2.yaml", "--num_processes=1", "-m", "train.fit"]
    for steps in (3, 4):
        run = arguments(tmp_path / "zero2", *options, f"steps={steps}")
        done = subprocess.run(
            [*accelerate, *where, *run], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
    for ours, theirs in zip(*(read_losses(tmp_path / name) for name in ("plain", "zero2")), strict=True):
        one, two = ([float(value) for value in row] for row in (ours, theirs))
        assert two == pytest.approx(one, rel=1e-3)


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_launches_it(processes: int, tmp_path: Path) -> None:
    """docs/training/training.md's own command, on a CPU; `--cpu --num_processes 2` would start one process and not say so."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision=no", "--main_process_port=0"]
    where = ["--config_file=train/configs/accelerate/ddp.yaml", "--num_processes=2"] if processes == 2 else ["--cpu"]
    run = ["-m", "train.fit", "train/configs/smoke.yaml", f"out={tmp_path}/run", "steps=4", "log_every=1"]
    subprocess.run([*accelerate, *where, *run], cwd=ROOT, env=ENV, check=True, timeout=600)
    training = adapter.read_header(tmp_path / "run" / "model.safetensors").training
    assert (training["steps"], training["batch"]) == (4, 2 * processes)
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP"), ("zero2", "DEEPSPEED")])
def test_accelerate_takes_the_config_files(name: str, kind: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / "train" / "configs" / "accelerate" / f"{name}.yaml"))
    assert getattr(config.distributed_type, "value", config.distributed_type) == kind
    assert (config.num_processes, config.mixed_precision) == (4, "bf16")  # Sec. 4.1: four GPUs
    if name == "fsdp":
        assert config.fsdp_config["fsdp_version"] == 2
    if name == "zero2":
        assert config.deepspeed_config["zero_stage"] == 2
