"""FLOPs counted without running are those of a run; time follows from them; the step that is timed is the run's."""

from __future__ import annotations

import pytest
import torch
from repository import CONFIGS
from torch.utils.flop_counter import FlopCounterMode

from tadisr.errors import ConfigError
from train import config as settings
from train import plan
from train.loop.setup import build_model
from train.losses import Objective

SMALL = ["data.crop=64", "batch=2", "ema=0"]


def test_counted_flops_are_those_of_a_pass() -> None:
    config = settings.read_config(CONFIGS / "compact.yaml", SMALL)
    model, objective = build_model(config), Objective(config.loss)
    batch = {"upscaled": torch.rand(2, 3, 64, 64), "hr": torch.rand(2, 3, 64, 64), "mask": torch.rand(2, 1, 64, 64)}
    with FlopCounterMode(display=False) as counter:
        loss = plan.compute_loss(model, objective, batch)
        forward = counter.get_total_flops()
        loss.backward()
    counted = plan.count_flops(config)
    assert counted.forward == pytest.approx(forward, rel=0.02)
    assert counted.total == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert 1.9 * forward < counted.backward < 2.1 * forward  # all of it is trained
    again = plan.count_flops(settings.read_config(CONFIGS / "compact.yaml", [*SMALL, "checkpointing=true"]))
    assert again.forward == counted.forward and again.backward > 1.2 * counted.backward


def test_the_plan_is_arithmetic() -> None:
    """1,000 TFLOP a pass, two passes a step, half of 989 TFLOP/s: 4.04 s a step, 42,730 samples a day on one H100."""
    config = settings.read_config(CONFIGS / "compact.yaml", ["batch=1", "accumulate=2", "steps=100"])
    flops = plan.Flops(forward=0, total=10**15)
    assert plan.estimate_step_seconds(config, flops, 989, 0.5) == pytest.approx(4.0445, rel=1e-4)
    table = plan.format_plan(config, flops, 0.5, 4)
    assert "| 1x H100 | 4.04 | 42,725 | 0.0 |" in table and "| 4x A100 | 12.82 | 53,914 |" in table


def test_a_step_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    config = settings.read_config(CONFIGS / "compact.yaml", [*SMALL, "checkpointing=true"])
    flops = plan.Flops(forward=0, total=10**9)
    found = plan.time_steps(config, torch.device("cpu"), steps=1, flops=flops, peak=1.0)
    assert found["seconds"] > 0 and found["efficiency"] == pytest.approx(1e-3 / found["seconds"])
    assert plan.main([str(CONFIGS / "smoke.yaml")]) == 0
    assert "a pass of 2 x 64 x 64" in capsys.readouterr().out
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="needs a GPU"):
            plan.measure_steps(config)


@pytest.mark.slow
def test_the_papers_step_takes_100_tflop() -> None:
    """Kolors at its real size: the docs' figures."""
    counted = plan.count_flops(settings.read_config(CONFIGS / "kolors-ftsr.yaml"))
    assert counted.forward == pytest.approx(33.1e12, rel=0.01) and counted.total == pytest.approx(100.5e12, rel=0.01)
