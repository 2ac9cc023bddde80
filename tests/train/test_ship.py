"""train.ship: the weights and the header of a shipped file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import randomize, trunk_config

import tadisr
from tadisr.checkpoints import adapter
from tadisr.errors import ConfigError
from tadisr.model import TADiSR
from train.ship import main, ship_model


def test_shipping_scales_the_residual_and_halves_the_file(compact: TADiSR, tmp_path: Path) -> None:
    adapter.save_checkpoint(compact, tmp_path / "run.safetensors", training={"steps": 5})
    options = ["--gain", "0.5", "--detail", "0.25"]
    assert main([str(tmp_path / "run.safetensors"), str(tmp_path / "out.safetensors"), *options]) == 0
    shipped, image = tadisr.load(tmp_path / "out.safetensors"), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        whole, scaled = compact(image).image - image, shipped(image).image - image
    mean = torch.nn.functional.avg_pool2d(whole, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(scaled, (mean + 0.25 * (whole - mean)) / 2, atol=2e-3, rtol=1e-2)
    header = adapter.read_header(tmp_path / "out.safetensors")
    assert header.training == {"steps": 5, "residual_gain": 0.5, "residual_detail": 0.25}
    assert header.bytes < 0.6 * (tmp_path / "run.safetensors").stat().st_size


def test_the_mean_of_runs_is_shipped(compact: TADiSR, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for i, file in enumerate(files):
        with torch.no_grad():
            compact.prompt.embedding.fill_(float(i * i))
        adapter.save_checkpoint(compact, file, training={"seed": i})
    ship_model(files[0], tmp_path / "out.safetensors", mean=files[1:])
    shipped = tadisr.load(tmp_path / "out.safetensors")
    torch.testing.assert_close(
        shipped.prompt.embedding, torch.full_like(shipped.prompt.embedding, 5 / 3), atol=1e-3, rtol=0
    )
    assert adapter.read_header(tmp_path / "out.safetensors").training["mean_with"] == [{"seed": 1}, {"seed": 2}]
    other = TADiSR(dataclasses.replace(compact.config, name="other"))
    adapter.save_checkpoint(other, files[1], training={})
    with pytest.raises(ConfigError, match="one config"):
        ship_model(files[0], tmp_path / "out.safetensors", mean=files[1:])


def test_a_trunk_is_shipped_with_its_default_detail(compact: TADiSR, tmp_path: Path) -> None:
    model, image = randomize(TADiSR(trunk_config())), torch.rand(1, 3, 32, 32)
    adapter.save_checkpoint(model, tmp_path / "run.safetensors", training={})
    ship_model(tmp_path / "run.safetensors", tmp_path / "out.safetensors", gain=0.5, default_detail=0.25)
    shipped = tadisr.load(tmp_path / "out.safetensors")
    trunk = shipped.config.decoder.trunk
    assert trunk is not None and trunk.detail == 0.25
    with torch.no_grad():
        whole, scaled = model.eval()(image), shipped(image)
    torch.testing.assert_close(scaled.image - image, (whole.image - image) / 2, atol=2e-3, rtol=1e-2)
    torch.testing.assert_close(scaled.log_variance, whole.log_variance, atol=2e-2, rtol=1e-2)
    adapter.save_checkpoint(compact, tmp_path / "plain.safetensors", training={})
    with pytest.raises(ConfigError, match="needs a model with a trunk"):
        ship_model(tmp_path / "plain.safetensors", tmp_path / "out.safetensors", default_detail=0.5)
