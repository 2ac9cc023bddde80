"""The configs that ship: each ablation is one change, and every run starts as its file says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fonts import FONTS
from repository import CONFIGS
from small_training import config

from train import config as settings
from train.fit import main, run_training
from train.loop.setup import build_model

pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")

PLAIN = {"mse", "lpips", "mf", "seg_mse", "focal", "dice"}
ABLATIONS = {
    "ablation-full": PLAIN,
    "ablation-jsd": {"mse", "lpips", "mf"},
    "ablation-taca": PLAIN,
    "ablation-mf": PLAIN - {"mf"},
    "ablation-response": PLAIN,
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_are_one_change_each_and_train(name: str, tmp_path: Path) -> None:
    """By their own files, at the compact network's size: what each changes, and the terms it learns from."""
    full, changed = (settings.read_config(CONFIGS / f"{which}.yaml") for which in ("ablation-full", name))
    model, loss = settings.build_model_config(changed.model), changed.loss
    wholes = [settings.to_dict(c) for c in (full, changed)]
    different = {key for key in wholes[0] if wholes[0][key] != wholes[1][key]}
    assert different == {"ablation-full": set(), "ablation-mf": {"out", "loss"}}.get(name, {"out", "model"})
    fields = {key: value for key, value in changed.model.items() if key in ("decoder", "text_attention")}
    assert model.decoder.joint == (name != "ablation-jsd") and model.text_attention.enabled == (name != "ablation-taca")
    options = [f"model.{key}.{k}={str(v).lower()}" for key, table in fields.items() for k, v in table.items()]
    out = run_training(config(tmp_path / "run", "steps=1", "data.workers=0", "panel=1", f"loss.mf={loss.mf}", *options))
    head, row = ((out / "log.csv").read_text().splitlines()[i].split(",") for i in (0, 1))
    assert set(head) == (ABLATIONS[name] - {"lpips"}) | {
        "step",
        "total",
        "lr",
        "gradient",
        "waiting",
        "steps_per_second",
    }
    assert all(torch.isfinite(torch.tensor(float(value))) for value in row)
    responses = build_model(config(tmp_path / "run", *options))(torch.rand(1, 3, 32, 32)).responses
    kept = all(r.min() >= 0 and r.max() <= 1 for r in responses)
    assert kept == (name in ("ablation-response", "ablation-taca"))  # weights of a softmax; none at all


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kolors-ftsr", "kolors-realce", "kolors-ftsr-ocr", *ABLATIONS])
def test_shipped_configs_run_at_their_crop(name: str, tmp_path: Path) -> None:
    """Two steps, a panel and a validation of each shipped config at 768, with Real-CE images lower than that.

    Only what a CPU cannot do is replaced: the compact network for Kolors, no LPIPS backbone, fp32.
    """
    from pair_folders import write_sets

    ftsr, real = write_sets(tmp_path / "sets")
    kept = settings.read_config(CONFIGS / f"{name}.yaml")
    sources = [f"data.sources.ftsr.folder={ftsr}", f"data.sources.realce.folder={real}"]
    small = [
        "model.preset=compact",
        "init=null",
        "prompt=null",
        "precision=no",
        "base_precision=fp32",
        "loss.lpips=off",
    ]
    loop = [
        "steps=2",
        "log_every=1",
        "panel=2",
        "validate.pictures=2",
        "validate.ocr=off",
        "data.workers=0",
        "checkpointing=false",
    ]
    run = settings.read_config(CONFIGS / f"{name}.yaml", [f"out={tmp_path / 'run'}", *sources, *small, *loop])
    assert (run.data.crop, run.data.view, run.validate.sources) == (768, kept.data.view, kept.validate.sources)
    out = run_training(run)
    head = (out / "validation.csv").read_text().splitlines()[0].split(",")
    assert ("psnr@realce" in head) == (name in ("kolors-ftsr", "kolors-realce"))
    assert (out / "panel-0000002.png").is_file() and (out / "model.safetensors").is_file()


def test_the_smoke_config_trains_by_command(tmp_path: Path) -> None:
    """The run a newcomer starts with, by the command's own door."""
    fonts = "[" + ", ".join(map(str, FONTS)) + "]"
    assert main([str(CONFIGS / "smoke.yaml"), f"out={tmp_path / 'run'}", f"data.fonts={fonts}", "steps=10"]) == 0
    assert {path.name.split(".")[0] for path in (tmp_path / "run").glob("[!.]*")} == {
        "best-psnr", "checkpoints", "events", "log", "model", "panel-0000010", "validation"
    }  # fmt: skip
