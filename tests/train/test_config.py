"""The files of train/configs: read, inherited, overridden and checked; the paper's numbers are in them."""

from __future__ import annotations

import pytest
from repository import CONFIGS

from tadisr import ConfigError, TADiSR
from train import config as settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "unknown field 'stepz'"),
        ("loss.lpips=yes", "expected float"),
        ("batch=many", "expected int"),
        ("data.kind=lsdir", "expected one of 'rendered'"),
        ("data.sources={a: {knd: ftsr}}", "data.sources.a has the unknown field 'knd'"),
        ("nonsense", "write key=value"),
    ],
)
def test_settings_are_checked(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.read_config(CONFIGS / "compact.yaml", [override])


def test_settings_inherit_and_read_off_as_a_word() -> None:
    first, second = (settings.read_config(CONFIGS / name) for name in ("compact.yaml", "compact_camera.yaml"))
    assert first.loss.lpips == "off" and second.loss.mf == first.loss.mf == 10 / 64
    assert second.init == f"{first.out}/model.safetensors" and second.data.camera > 0
    assert second.data.degradation.keys() == first.data.degradation.keys()
    ablated = settings.build_model_config({"preset": "compact", "decoder": {"joint": False}})
    assert TADiSR(ablated).text_attention is None


def test_the_papers_numbers_are_in_its_config() -> None:
    c = settings.read_config(CONFIGS / "kolors-ftsr.yaml")
    assert (c.lr, c.schedule, c.warmup, c.optimizer, c.weight_decay) == (5e-5, "constant", 0, "adamw", 1e-2)
    assert (c.steps, c.batch, c.accumulate, c.data.crop) == (200_000, 1, 1, 768)
    assert (c.loss.lpips, c.loss.mf, c.loss.gamma, c.loss.focal, c.loss.dice, c.loss.seg) == (5, 10, 2, 10, 1, 1)
    assert settings.build_model_config(c.model).schedule.timestep == 200
    assert {s.kind: s.weight for s in c.data.sources.values()} == {"ftsr": None, "realce": None}


def test_the_second_stage_goes_on_from_the_first() -> None:
    first, second = (settings.read_config(CONFIGS / f"kolors-{name}.yaml") for name in ("ftsr", "realce"))
    assert second.init == f"{first.out}/model.safetensors" and second.out != first.out and second.lr < first.lr
    assert {s.kind: s.weight for s in second.data.sources.values()} == {"ftsr": 0.1, "realce": 0.9}
    assert (second.steps, second.lr, second.data.sources["realce"].view) == (17_500, 2e-5, "zoom")
    assert (second.base, second.prompt, second.model, second.loss) == (
        first.base,
        first.prompt,
        first.model,
        first.loss,
    )
