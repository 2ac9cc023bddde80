"""Training: it learns, it resumes bit for bit, its files load, its settings are checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_rendered import FONTS

import tadisr
from tadisr import ConfigError, TADiSR, adapter
from train import settings
from train.fit import EMA, build_model, fit, learning_rate, main
from train.settings import FitConfig

pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")

CONFIGS = Path(__file__).parents[1] / "train" / "configs"
FAST = ["data.crop=64", "batch=2", "log_every=1", "checkpoint_every=2", "panel_every=4", "panel=2", "warmup=0"]


def config(out: Path, *overrides: str) -> FitConfig:
    fonts = "[" + ", ".join(map(str, FONTS)) + "]"
    common = [f"out={out}", f"data.fonts={fonts}", "data.backgrounds=[]", *FAST]
    return settings.read(CONFIGS / "compact.yaml", [*common, *overrides])


def test_resume_is_bit_for_bit(tmp_path: Path) -> None:
    """Four steps at once, and two, a stop, two more with another number of workers: the same weights and log."""
    whole = fit(config(tmp_path / "whole", "steps=4"))
    stopped = config(tmp_path / "parts", "steps=4", "data.workers=0")

    class Stop(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        seen: list[int] = []

        def stop_after_three(given: FitConfig, step: int) -> float:
            seen.append(step)
            if len(seen) > 5:  # asked twice a step: once to set it, once to log it
                raise Stop
            return learning_rate(given, step)

        patch.setattr("train.fit.learning_rate", stop_after_three)
        fit(stopped)
    parts = fit(stopped)
    one, other = load_file(whole / "model.safetensors"), load_file(parts / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)

    def rows(folder: Path) -> list[list[str]]:
        lines = [line.split(",") for line in (folder / "log.csv").read_text().splitlines()]
        return [line[:-1] for line in lines]  # but for the share of time spent waiting

    assert rows(whole) == rows(parts)
    assert [row[0] for row in rows(parts)[1:]] == ["1", "2", "3", "4"]
    assert (whole / "panel-0000004.png").read_bytes() == (parts / "panel-0000004.png").read_bytes()
    assert list(whole.glob("events.*"))


def test_a_checkpoint_loads_and_says_how_it_was_made(tmp_path: Path) -> None:
    out = fit(config(tmp_path / "run", "steps=2", "ema=0"))
    header = adapter.read_header(out / "model.safetensors")
    assert header.training["steps"] == 2 and header.training["seed"] == 0
    assert header.training["data"]["crop"] == 64 and header.training["loss"]["lpips"] == "off"
    assert tadisr.upscale(tadisr.load(out / "model.safetensors"), torch.rand(1, 3, 9, 9)).image.shape == (1, 3, 36, 36)
    again = fit(config(tmp_path / "second", "steps=1", f"init={out / 'model.safetensors'}", "lr=0"))
    assert adapter.read_header(again / "model.safetensors").training["init"]["steps"] == 2


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    """A hundred steps bring every term down on pictures it has not seen."""
    from tadisr.image import resize
    from train.fit import triplets
    from train.losses import Objective

    run = config(tmp_path / "run", "steps=100", "batch=4", "lr=0.002", "ema=0", "data.degradation={light: 1.0}")
    unseen = [triplets(run, seed=77)[i] for i in range(32)]
    batch = {key: torch.stack([sample[key] for sample in unseen]) for key in unseen[0]}
    fresh, trained = build_model(run), tadisr.load(fit(run) / "model.safetensors")
    losses = []
    for model in (fresh, trained):
        with torch.no_grad():
            output = model.eval()(resize(batch["lr"], (64, 64)))
        losses.append(Objective(run.loss)(output.image, output.mask_logits, batch["hr"], batch["mask"]))
    assert all(losses[1][name] < losses[0][name] for name in ("mse", "mf", "seg_mse", "focal", "total")), losses


def test_an_adapter_trains_on_a_frozen_base(kolors_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LoRA on tiny Kolors by the same loop: the base stays as it was, the file holds the adapter alone."""
    from tiny import tiny_kolors_config

    monkeypatch.setattr("train.settings.model_config", lambda _table: tiny_kolors_config())
    out = fit(config(tmp_path / "run", "steps=2", "batch=1", f"base={kolors_base}", "precision=no", "lr=0.01"))
    file = out / "model.safetensors"
    names = load_file(file).keys()
    assert {n.split(".")[0] for n in names} == {"unet_lora", "vae_lora", "text_attention", "decoder", "prompt"}
    assert any(".lora_B." in n and load_file(file)[n].any() for n in names)
    assert tadisr.upscale(tadisr.load(file, base=kolors_base), torch.rand(1, 3, 8, 8)).image.shape == (1, 3, 32, 32)


def test_ema_and_schedule(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    ema = EMA(layer, 0.9)
    before = layer.weight.detach().clone()
    torch.nn.init.ones_(layer.weight)
    ema.update(layer, 1000)
    torch.testing.assert_close(ema.shadow["weight"], before * 0.9 + 0.1)
    ema.swap(layer)
    torch.testing.assert_close(layer.weight.detach(), before * 0.9 + 0.1)
    ema.swap(layer)
    assert (layer.weight == 1).all()
    plan = config(tmp_path, "warmup=10", "steps=110", "lr=1.0")
    assert learning_rate(plan, 0) == pytest.approx(0.1)
    assert learning_rate(plan, 10) == pytest.approx(1)
    assert learning_rate(plan, 109) < 0.02
    assert learning_rate(config(tmp_path, "schedule=constant", "warmup=0"), 5) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "unknown field 'stepz'"),
        ("loss.lpips=yes", "expected float"),
        ("batch=many", "expected int"),
        ("data.kind=lsdir", "expected one of 'rendered'"),
        ("nonsense", "write key=value"),
    ],
)
def test_settings_are_checked(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.read(CONFIGS / "compact.yaml", [override])


def test_settings_inherit_and_read_off_as_a_word() -> None:
    first, second = (settings.read(CONFIGS / name) for name in ("compact.yaml", "compact_camera.yaml"))
    assert first.loss.lpips == "off" and second.loss.mf == first.loss.mf == 10
    assert second.init == f"{first.out}/model.safetensors" and second.data.camera > 0
    assert second.data.degradation.keys() == first.data.degradation.keys()
    ablated = settings.model_config({"preset": "compact", "decoder": {"joint": False}})
    assert TADiSR(ablated).text_attention is None


def test_lpips_that_cannot_be_had_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match="lpips: off"):
        main([str(CONFIGS / "compact.yaml"), f"out={tmp_path / 'x'}", "loss.lpips=5.0"])


def test_build_model_needs_its_base(tmp_path: Path) -> None:
    with pytest.raises(tadisr.CheckpointError, match="needs its base"), torch.device("meta"):
        build_model(config(tmp_path, "model={preset: kolors}"))


def test_shipping_scales_the_residual_and_halves_the_file(compact: TADiSR, tmp_path: Path) -> None:
    from train.ship import main as ship

    adapter.save(compact, tmp_path / "run.safetensors", training={"steps": 5})
    options = ["--gain", "0.5", "--detail", "0.25"]
    assert ship([str(tmp_path / "run.safetensors"), str(tmp_path / "out.safetensors"), *options]) == 0
    shipped, image = tadisr.load(tmp_path / "out.safetensors"), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        whole, scaled = compact(image).image - image, shipped(image).image - image
    mean = torch.nn.functional.avg_pool2d(whole, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(scaled, (mean + 0.25 * (whole - mean)) / 2, atol=2e-3, rtol=1e-2)
    header = adapter.read_header(tmp_path / "out.safetensors")
    assert header.training == {"steps": 5, "residual_gain": 0.5, "residual_detail": 0.25}
    assert header.bytes < 0.6 * (tmp_path / "run.safetensors").stat().st_size
