"""What tests share: tiny Kolors, the compact network with random weights, a small FTSR."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import randomize, tiny_kolors_config, write_base

from tadisr import TADiSR, preset


@pytest.fixture(scope="session")
def tiny_kolors() -> TADiSR:
    """Frozen, without LoRA on it; do not change it."""
    torch.manual_seed(0)
    return randomize(TADiSR(tiny_kolors_config())).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def kolors_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    return write_base(tmp_path_factory.mktemp("kolors"), TADiSR(tiny_kolors_config()))


@pytest.fixture(scope="session")
def compact() -> TADiSR:
    """The compact network with random weights; do not change it."""
    torch.manual_seed(0)
    return randomize(TADiSR(preset("compact"))).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the small FTSR."""
    from small_ftsr import write_pictures

    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def made(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small FTSR, whole, built by this process alone; do not change it."""
    from small_ftsr import configured

    from train.synthesis.build import build_data_set

    return build_data_set(configured(pictures, tmp_path_factory.mktemp("made") / "ftsr"), quiet=True)
