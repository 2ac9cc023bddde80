"""A deepened model computes what it came from, and can go on learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tadisr
from tadisr import TADiSR, adapter, upscale

peft = pytest.importorskip("peft", reason="training needs the extra train: pip install -e '.[train]'")


def test_a_deepened_model_is_the_same_function(compact: TADiSR, tmp_path: Path) -> None:
    from train import grow

    adapter.save(compact, tmp_path / "small.safetensors")
    assert (
        grow.main([str(tmp_path / n) for n in ("small.safetensors", "deep.safetensors")] + ["vae.layers_per_block=3"])
        == 0
    )
    deep = tadisr.load(tmp_path / "deep.safetensors")
    assert sum(p.numel() for p in deep.parameters()) > 1.1 * sum(p.numel() for p in compact.parameters())
    image = torch.rand(1, 3, 16, 24)
    before, after = upscale(compact, image), upscale(deep, image)
    torch.testing.assert_close(after.image, before.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.mask, before.mask, atol=1e-5, rtol=0)


def test_what_is_no_deepening_is_refused(compact: TADiSR, tmp_path: Path) -> None:
    from train import grow

    adapter.save(compact, tmp_path / "small.safetensors")
    with pytest.raises(SystemExit, match="only residual blocks can be added"):
        grow.main(
            [str(tmp_path / n) for n in ("small.safetensors", "wide.safetensors")] + ["vae.block_out_channels=[64, 64]"]
        )
