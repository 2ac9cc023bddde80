"""A run of the first public version (980ac3f): its model file is the same function, its training state is resumed.

tests/fixtures/old_run.tar.xz is what that version's train.fit wrote with the config below, after two steps.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch
from fonts import FONTS

import tadisr
from train import config as settings
from train.fit import run_training

CONFIG = """
model:
  preset: compact
  vae: {block_out_channels: [4, 4], norm_num_groups: 2}
  unet: {block_out_channels: [8, 8], norm_num_groups: 4, attention_head_dim: [2, 2], cross_attention_dim: 8}
  prompt: {width: 8}
  decoder: {text_channels: [4, 4, 4], norm_groups: 2}
data: {kind: rendered, crop: 64, workers: 0, backgrounds: []}
loss: {lpips: off}
steps: 3
batch: 1
panel_every: 100
panel: 1
checkpoint_every: 2
log_every: 1
"""


EXPECTED = [0.489025, 0.295429, 0.018631, 0.401182]  # image mean, deviation; logits mean, deviation


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    with tarfile.open(Path(__file__).parents[2] / "fixtures" / "old_run.tar.xz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_an_old_checkpoint_gives_what_it_gave(old_run: Path) -> None:
    """The expected figures were computed by the version that wrote the file."""
    model = tadisr.load(old_run / "model.safetensors")
    image = (torch.arange(3 * 32 * 32).reshape(1, 3, 32, 32) * 37 % 101) / 100
    with torch.no_grad():
        output = model(image)
    assert output.mask_logits is not None
    found = [output.image.mean(), output.image.std(), output.mask_logits.mean(), output.mask_logits.std()]
    torch.testing.assert_close(torch.stack(found), torch.tensor(EXPECTED), atol=1e-5, rtol=0)


@pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")
def test_an_old_training_state_is_resumed(old_run: Path, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(CONFIG)
    fonts = "[" + ", ".join(map(str, FONTS)) + "]"
    before = (old_run / "log.csv").read_text().splitlines()
    out = run_training(settings.read_config(tmp_path / "old.yaml", [f"out={old_run}", f"data.fonts={fonts}"]))
    log = (out / "log.csv").read_text().splitlines()
    assert len(log) == len(before) + 1 and log[-1].startswith("3,")
    assert all(now.startswith(then) for now, then in zip(log, before, strict=False))  # columns are only added
