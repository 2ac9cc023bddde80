"""How many cases of each kind there are, and the table of what came of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import TABLE, TALLIES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share", type=float, default=0.1, help="of the cases that docs/lab/hostile.md tells of (default .1)"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TALLIES:
        terminalreporter.write_line(TABLE)
        for tally in TALLIES:
            terminalreporter.write_line(tally.row())


@pytest.fixture(scope="session")
def share(pytestconfig: pytest.Config) -> float:
    return pytestconfig.getoption("--share", 0.1)


@pytest.fixture(scope="session")
def hostile_base(kolors_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Kolors in base/ and adapter.safetensors for it."""
    import torch
    from tiny import randomize, tiny_kolors_config

    from tadisr.checkpoints import adapter
    from tadisr.checkpoints.base_model import load_base
    from tadisr.model.lora import add_lora

    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(kolors_base, folder / "base")
    torch.manual_seed(0)
    config = tiny_kolors_config()
    model = load_base(folder / "base", config)
    assert config.lora is not None
    add_lora(model, config.lora)
    adapter.save_checkpoint(randomize(model), folder / "adapter.safetensors", training={"steps": 1})
    return folder
