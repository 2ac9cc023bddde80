"""LoRA merged into the base is peft's own forward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import randomize, tiny_kolors_config

from tadisr import CheckpointError, TADiSR, load
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.model.lora import add_lora, lora_state, merge_update, read_updates


@pytest.fixture(scope="module")
def trained(kolors_base: Path) -> TADiSR:
    """A base with peft's layers on it, all of them awake."""
    torch.manual_seed(5)
    config = tiny_kolors_config()
    model = load_base(kolors_base, config)
    assert config.lora is not None
    add_lora(model, config.lora)
    return randomize(model, scale=0.05).eval()


def test_merged_equals_peft(trained: TADiSR, kolors_base: Path) -> None:
    merged = load_base(kolors_base, trained.config).eval()
    for part in ("unet", "vae"):
        state = lora_state(trained.get_submodule(part))
        assert any(t.ndim == 4 and t.shape[-1] == 3 for t in state.values())  # convolutions too
        with torch.no_grad():
            for name, update in read_updates(merged.get_submodule(part), state, trained.config.lora.alpha, "test"):
                merge_update(merged.get_submodule(part), name, update)
        assert not any("lora" in name for name, _ in merged.get_submodule(part).named_modules())
    latent = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        conditions = trained.prompt.conditions(1)
        expected = trained.unet(latent, 200, **conditions).sample
        torch.testing.assert_close(merged.unet(latent, 200, **conditions).sample, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(
            merged.vae.decode(latent).sample, trained.vae.decode(latent).sample, atol=1e-5, rtol=1e-4
        )


def test_an_adapter_file_brings_the_whole_model_back(trained: TADiSR, kolors_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter.save_checkpoint(trained, path, training={"steps": 3})
    names = adapter.read_header(path)
    assert names.base["digest"] == trained.base_digest and set(trained.base_digest) == {"unet", "vae"}
    loaded = load(path, base=kolors_base)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected, got = trained(image), loaded(image)
    torch.testing.assert_close(got.image, expected.image, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(got.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-3)


def test_another_base_is_refused(trained: TADiSR, tmp_path: Path) -> None:
    from tiny import write_base

    path = tmp_path / "adapter.safetensors"
    adapter.save_checkpoint(trained, path)
    torch.manual_seed(99)
    other = write_base(tmp_path / "other", TADiSR(tiny_kolors_config()))
    with pytest.raises(CheckpointError, match="use the same one"):
        load(path, base=other)
    with pytest.raises(CheckpointError, match="needs its base"):
        load(path)
    with pytest.raises(CheckpointError, match="stands alone, it is no adapter"):
        load(base=other)
    with pytest.raises(CheckpointError, match=r"has no unet/ with a diffusion_pytorch_model"):
        load(path, base=tmp_path)


def test_a_base_of_other_widths_is_refused(trained: TADiSR, tmp_path: Path, kolors_base: Path) -> None:
    import shutil

    wrong = tmp_path / "wrong"
    shutil.copytree(kolors_base, wrong)
    file = "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(kolors_base / "vae" / file, wrong / "unet" / file)
    with pytest.raises(CheckpointError, match="is a VAE of SDXL's kind, expected Kolors' U-Net"):
        load_base(wrong, trained.config)
    (wrong / "unet" / file).write_bytes((kolors_base / "unet" / file).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_base(wrong, trained.config)


def test_lora_that_does_not_fit_is_refused(trained: TADiSR, kolors_base: Path) -> None:
    base = load_base(kolors_base, trained.config)
    state = lora_state(trained.unet)
    lonely = dict(list(state.items())[:1])
    with pytest.raises(CheckpointError, match="no partner"):
        list(read_updates(base.unet, lonely, 8.0, "a file"))
    a, b = (n for n in list(state)[:2])
    with pytest.raises(CheckpointError, match="another base"):
        list(read_updates(base.unet, {a: torch.zeros(4, 7), b: torch.zeros(9, 4)}, 8.0, "a file"))
