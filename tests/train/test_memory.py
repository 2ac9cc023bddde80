"""The memory that is counted without running is the memory that a run has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from repository import CONFIGS, ROOT

from train import config as settings
from train import memory
from train.loop.setup import build_model
from train.losses import Objective

SMALL = ["data.crop=64", "batch=2", "ema=0"]


def test_counted_is_what_autograd_holds() -> None:
    """Saved storages of a real pass on the CPU in fp32, where there is no autocast; fused attention counts alike."""
    config = settings.read_config(CONFIGS / "compact.yaml", SMALL)
    counted = memory.estimate_memory(config)
    model, objective = build_model(config), Objective(config.loss)
    known = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    saved = memory.Saved(known)
    hr, mask = torch.rand(2, 3, 64, 64), torch.rand(2, 1, 64, 64).round()
    with saved.count_saved():
        output = model(torch.rand(2, 3, 64, 64))
        terms = objective(output.image, output.mask_logits, hr, mask)
    assert counted.activations == pytest.approx(saved.bytes, rel=0.03)
    trained = sum(p.numel() for p in model.parameters())
    assert (counted.frozen, counted.trained, counted.optimizer) == (0, 4 * trained, 8 * trained)
    assert counted.parameters == (0, trained) and terms["total"] > 0


def test_what_saves_memory_is_seen_to() -> None:
    def need(*options: str) -> memory.Need:
        return memory.estimate_memory(settings.read_config(CONFIGS / "compact.yaml", [*SMALL, *options]))

    plain, checkpointed, eight = need(), need("checkpointing=true"), need("optimizer=adamw8bit")
    assert checkpointed.activations + checkpointed.block < plain.activations and checkpointed.block > 0
    large, half = need("data.crop=128"), need("data.crop=128", "precision=bf16")  # large, for weights are cast and kept
    assert 0.5 * large.activations < half.activations < 0.95 * large.activations
    assert 0.25 * plain.optimizer < eight.optimizer < 0.3 * plain.optimizer  # small tensors stay as they are
    assert [memory.count_optimizer_bytes(size, "adamw8bit") for size in (4095, 4096, 4097)] == [
        8 * 4095,
        2 * (4096 + 64),
        2 * (4097 + 68),
    ]
    assert memory.count_optimizer_bytes(4096, "adamw") == 8 * 4096
    assert need("batch=4").activations == pytest.approx(2 * plain.activations, rel=0.05)


@pytest.mark.slow
def test_the_papers_model_fits_where_it_should(capsys: pytest.CaptureFixture[str]) -> None:
    """Kolors by its real config: an 80 GB card at 768, a 24 GB card at 512, a GiB left for what is not counted."""
    for crop, limit in ((768, 80), (512, 24)):
        config = settings.read_config(Path(CONFIGS) / "kolors-ftsr.yaml", [f"data.crop={crop}"])
        counted = memory.estimate_memory(config, distributed=crop == 768)
        assert counted.total < limit * 1e9 - memory.GIB
        frozen, trained = counted.parameters
        assert frozen == 2_579_458_820 + 83_653_863 and 50e6 < trained < 200e6
    page = (ROOT / "docs" / "training" / "training.md").read_text()
    for crop, checkpointing in ((768, "true"), (512, "true"), (768, "false"), (512, "false")):
        options = [f"data.crop={crop}", f"checkpointing={checkpointing}"]
        counted = memory.estimate_memory(settings.read_config(CONFIGS / "kolors-ftsr.yaml", options))
        assert f"| **{counted.total / memory.GIB:.1f}** |" in page, options
    assert memory.main([str(CONFIGS / "smoke.yaml")]) == 0
    assert "saved for the backward pass (2 x 64 x 64)" in capsys.readouterr().out
