"""CogView4 in the U-Net's place: the same line of encode, denoise, decode."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny import randomize, tiny_cogview4_config, write_base

from tadisr import ConfigError, TADiSR, load, preset, upscale
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.config import ModelConfig, ScheduleConfig, TextAttentionConfig
from tadisr.model.lora import add_lora
from tadisr.model.precision import FP8
from tadisr.model.schedule import denoise_latent, denoiser_time, nearest_sigma
from tadisr.model.text_attention import text_layers
from tadisr.profiling.memory import plan_memory


@pytest.fixture(scope="module")
def model() -> TADiSR:
    torch.manual_seed(0)
    model = TADiSR(tiny_cogview4_config())
    model.prompt.embedding.normal_()
    return randomize(model).eval().requires_grad_(False)


def plain(model: TADiSR) -> torch.nn.Module:
    """diffusers' own transformer with the same weights and its own processors."""
    from diffusers import CogView4Transformer2DModel

    plain = CogView4Transformer2DModel.from_config(model.config.transformer).eval()
    plain.load_state_dict(model.denoiser.state_dict())
    return plain


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_flow_steps_from_the_timestep_nearest_to_200(shift: float) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    nearest = (scheduler.timesteps - 200).abs().argmin()
    schedule = ScheduleConfig(prediction="flow", train_steps=1000, shift=shift)
    assert denoiser_time(schedule) == pytest.approx(scheduler.timesteps[nearest].item())
    assert nearest_sigma(schedule) == pytest.approx(scheduler.sigmas[nearest].item())
    z, velocity = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(denoise_latent(schedule, z, velocity), z - scheduler.sigmas[nearest] * velocity)


def test_denoise_is_the_plain_transformers_step(model: TADiSR) -> None:
    """Bit for bit, with the image's own size as its condition, listening or not; and it has one map a layer."""
    latent, size = torch.randn(2, 16, 8, 12), torch.tensor([[64.0, 96.0]]).expand(2, -1)
    with torch.inference_mode():
        velocity = plain(model)(
            latent, model.prompt.embedding.expand(2, -1, -1), torch.full((2,), 200.0), size, size, torch.zeros(2, 2)
        ).sample
        z, responses = model.denoise(latent)
    assert torch.equal(z, latent - 0.2 * velocity)
    assert [maps.shape for maps in responses] == [(2, 4, 4, 6)] * 3
    assert model.recorder.layers == [f"transformer_blocks.{i}.attn1" for i in range(3)]


@pytest.mark.parametrize("kind", ["score", "probability"])
@pytest.mark.parametrize("heads", ["all", "second_half"])
def test_responses_are_what_the_images_tokens_ask_of_the_word(kind: str, heads: str) -> None:
    """Against the queries and keys that diffusers' own processor hands to its attention."""
    torch.manual_seed(1)
    choice = TextAttentionConfig(response=kind, heads=heads, position=13)
    model = TADiSR(tiny_cogview4_config(text_attention=choice)).eval()
    model.prompt.embedding.normal_()
    latent, size = torch.randn(1, 16, 8, 4), torch.tensor([[64.0, 32.0]])
    seen: list[torch.Tensor] = []
    original = torch.nn.functional.scaled_dot_product_attention

    def watch(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: object) -> torch.Tensor:
        scores = query[:, :, 16:] @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        maps = scores if kind == "score" else scores.softmax(-1)
        seen.append(maps[..., 13].unflatten(-1, (4, 2)))
        return original(query, key, value, **options)

    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watch)
        plain(model)(latent, model.prompt.embedding, torch.tensor([200.0]), size, size, torch.zeros(1, 2))
    with torch.inference_mode():
        _, responses = model.denoise(latent)
    assert model.recorder.channels == (12 if heads == "all" else 6)
    for maps, expected in zip(responses, seen, strict=True):
        torch.testing.assert_close(maps, expected if heads == "all" else expected[:, 2:], atol=1e-5, rtol=1e-4)


def test_an_adapter_on_cogview4_upscales(model: TADiSR) -> None:
    picture = torch.rand(1, 3, 20, 31)
    result = upscale(model, picture)
    assert result.image.shape == (1, 3, 80, 124) and result.mask.shape == (1, 1, 80, 124)
    assert result.mask.std() > 0
    assert (model.config.multiple, model.config.latent_factor, model.config.parts) == (16, 8, ("transformer", "vae"))
    assert {name.split(".")[0] for name in model.state_dict()} >= {"transformer", "vae"}


def test_one_denoiser_and_no_other() -> None:
    config = tiny_cogview4_config()
    assert ModelConfig.from_dict(config.to_dict()) == config
    for wrong, word in (({"unet": {"in_channels": 4}}, "both"), ({"transformer": {}}, "neither")):
        with pytest.raises(ConfigError, match=f"cogview4 config has {word} a unet and a transformer"):
            dataclasses.replace(config, **wrong)
    assert len(text_layers(TADiSR(config).denoiser)) == 3


@torch.inference_mode()
def test_dtypes_and_memory(tmp_path: Path) -> None:
    """The preset's LoRA on a base stored in half and in fp8; a VAE that overflows goes on in fp32; fp8 counts as half."""
    torch.manual_seed(0)
    lora = preset("cogview4").lora
    assert lora is not None
    config = tiny_cogview4_config(lora=lora)
    base = write_base(tmp_path / "base", TADiSR(config))
    model = load_base(base, config)
    add_lora(model, lora)
    adapter.save_checkpoint(randomize(model, scale=0.03), tmp_path / "a.safetensors")
    picture = torch.rand(1, 3, 32, 64)
    exact = load(tmp_path / "a.safetensors", base=base)(picture).image
    for dtype, most in ((torch.float16, 0.05), (torch.bfloat16, 0.2), (FP8, 0.1)):
        loaded = load(tmp_path / "a.safetensors", base=base, dtype=dtype)
        stored = {p.dtype for p in loaded.denoiser.parameters()}
        assert stored == ({FP8, torch.float32} if dtype == FP8 else {dtype})
        assert float((loaded(picture).image.float() - exact).std() / exact.std()) < most, dtype
    half = load(tmp_path / "a.safetensors", base=base, dtype=torch.float16)
    large = half.vae.decoder.mid_block.resnets[0].conv1
    large.weight.mul_(2e4 / float(large.weight.abs().max()))
    assert half(picture).image.isfinite().all() and half.overflowed
    counted = [
        plan_memory(config, dtype=d, compute=torch.bfloat16, tile=128)["weights"]["transformer"]
        for d in (torch.bfloat16, FP8)
    ]
    assert counted[1] < 0.9 * counted[0]
