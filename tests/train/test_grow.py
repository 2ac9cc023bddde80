"""A grown model computes what it came from, and can go on learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import trunk_config

import tadisr
from tadisr import TADiSR, upscale
from tadisr.checkpoints import adapter

peft = pytest.importorskip("peft", reason="training needs the extra train: pip install -e '.[train]'")


def test_a_deepened_model_is_the_same_function(compact: TADiSR, tmp_path: Path) -> None:
    from train import grow

    adapter.save_checkpoint(compact, tmp_path / "small.safetensors")
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


def test_a_deepened_trunk_is_the_same_function(tmp_path: Path) -> None:
    from train import grow

    small = TADiSR(trunk_config(blocks=4))
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    adapter.save_checkpoint(small, tmp_path / "small.safetensors")
    files = [str(tmp_path / name) for name in ("small.safetensors", "deep.safetensors")]
    assert grow.main([*files, "decoder.trunk.blocks=8"]) == 0
    deep, image = tadisr.load(files[1]), torch.rand(1, 3, 64, 64)
    before, after = small.eval()(image), deep(image)
    torch.testing.assert_close(after.image, before.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.mask_logits, before.mask_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.log_variance, before.log_variance, atol=1e-5, rtol=1e-5)


def test_a_widened_model_is_the_same_function_and_its_twins_part(compact: TADiSR, tmp_path: Path) -> None:
    from train import grow

    adapter.save_checkpoint(compact, tmp_path / "small.safetensors")
    fields = ["vae.layers_per_block=2", "vae.block_out_channels=[96, 128]", "unet.block_out_channels=[96, 128]"]
    assert grow.main([str(tmp_path / n) for n in ("small.safetensors", "wide.safetensors")] + fields) == 0
    wide = tadisr.load(tmp_path / "wide.safetensors").requires_grad_(True)
    assert sum(p.numel() for p in wide.parameters()) > 3.5 * sum(p.numel() for p in compact.parameters())
    image = torch.rand(1, 3, 16, 24)
    before, after = upscale(compact, image), upscale(wide, image)
    torch.testing.assert_close(after.image, before.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.mask, before.mask, atol=1e-5, rtol=0)
    wide(torch.rand(1, 3, 64, 64)).image.square().mean().backward()
    learned = dict(wide.named_parameters())["vae.decoder.mid_block.resnets.0.conv1.weight"].grad
    assert learned is not None and not torch.allclose(learned[::2], learned[1::2], rtol=1e-3)


def test_what_is_no_growth_is_refused(compact: TADiSR, tmp_path: Path) -> None:
    from train import grow

    adapter.save_checkpoint(compact, tmp_path / "small.safetensors")
    with pytest.raises(SystemExit, match=r"widths (can be )?doubled"):
        grow.main(
            [str(tmp_path / n) for n in ("small.safetensors", "wide.safetensors")] + ["vae.block_out_channels=[64, 64]"]
        )
