"""The files of train/configs: read, inherited, overridden and checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from repository import CONFIGS

from tadisr import ConfigError, TADiSR
from train import config as settings
from train.segmentation import fit as segmentation
from train.synthesis import config as synthesis


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


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path: Path) -> None:
    """It is read by the command that it is for, names no unknown field, and its model can be described."""
    if path.stem.startswith("ftsr"):
        assert synthesis.read_config(path).samples > 0
    elif path.stem == "segmenter":
        assert segmentation.read_config(path).epochs > 0
    else:
        config = settings.read_config(path)
        assert settings.build_model_config(config.model).name and config.steps > 0
