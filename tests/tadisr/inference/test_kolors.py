"""Kolors at work: diffusers' own arithmetic, dtypes, the adapter's strength, memory counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny import randomize, tiny_kolors_config

from tadisr import CheckpointError, TADiSR, load
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.model.lora import add_lora
from tadisr.model.precision import FP8, Linear, LowRank, to_fp8
from tadisr.profiling.memory import Alive, plan_memory

IMAGE = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(kolors_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that has something to say."""
    torch.manual_seed(1)
    model = load_base(kolors_base, tiny_kolors_config())
    assert model.config.lora is not None
    add_lora(model, model.config.lora)
    path = tmp_path_factory.mktemp("adapter") / "a.safetensors"
    adapter.save_checkpoint(randomize(model, scale=0.03), path)
    return path


@torch.inference_mode()
def test_the_way_to_z_h_is_that_of_diffusers_own_parts(kolors_base: Path) -> None:
    """KolorsImg2ImgPipeline's VAE, U-Net and schedule on the same files: encode, one step at t = 200, z_0."""
    ours = randomize(load_base(kolors_base, tiny_kolors_config())).eval()
    kind = {"variant": "fp16", "torch_dtype": torch.float32}
    vae = AutoencoderKL.from_pretrained(kolors_base, subfolder="vae", **kind)
    unet = UNet2DConditionModel.from_pretrained(kolors_base, subfolder="unet", **kind)
    schedule = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.014, beta_schedule="scaled_linear", num_train_timesteps=1100
    )
    latent = vae.encode(IMAGE * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    noise = unet(
        latent,
        200,
        encoder_hidden_states=ours.prompt.embedding,
        added_cond_kwargs={"text_embeds": ours.prompt.pooled, "time_ids": torch.tensor([[768, 768, 0, 0, 768, 768.0]])},
    ).sample
    abar = schedule.alphas_cumprod[200]
    expected = (latent - (1 - abar).sqrt() * noise) / abar.sqrt()
    z_l, _ = ours.encode(IMAGE)
    z_h, _ = ours.denoise(z_l)
    torch.testing.assert_close(z_l, latent, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(z_h, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_strength_goes_from_the_base_to_the_adapter_and_beyond(trained: Path, kolors_base: Path) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    weights = [
        load(trained, base=kolors_base, strength=strength).unet.get_submodule(name).weight
        for strength in (0.0, 1.0, -2.0)
    ]
    plain = load_base(kolors_base, tiny_kolors_config()).unet.get_submodule(name).weight
    assert torch.equal(weights[0], plain) and not torch.equal(weights[1], plain)
    torch.testing.assert_close(weights[2] - plain, -2 * (weights[1] - plain), atol=1e-6, rtol=1e-4)


@torch.inference_mode()
def test_dtypes_give_the_same_image_roughly(trained: Path, kolors_base: Path) -> None:
    exact = load(trained, base=kolors_base)(IMAGE).image
    for dtype, most in ((torch.float16, 0.05), (torch.bfloat16, 0.3), (FP8, 0.4)):
        model = load(trained, base=kolors_base, dtype=dtype)
        stored = {p.dtype for p in model.unet.parameters()}
        assert stored == ({FP8, torch.float32} if dtype == FP8 else {dtype})
        assert {p.dtype for p in model.vae.parameters()} == {torch.float32 if dtype == FP8 else dtype}
        apart = float((model(IMAGE).image.float() - exact).std() / exact.std())
        assert apart < most, (dtype, apart)  # random weights magnify; what fp8 itself costs is told below
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_fp8_keeps_small_weights_and_the_whole_lora() -> None:
    """Against the plain cast, and against merging: e4m3 cannot hold an update of a hundredth."""
    torch.manual_seed(0)
    weight = torch.randn(64, 64) * 0.01
    a, b = torch.randn(4, 64), torch.randn(64, 4)
    update = LowRank(a, b, float(0.01 * weight.norm() / (b @ a).norm()))
    stored, scale = to_fp8(weight)
    assert torch.equal(scale, torch.exp2(scale.log2().round()))

    def off(other: torch.Tensor) -> float:
        return float((other - weight).norm() / weight.norm())

    assert off(stored.float() * scale) < 0.03 < 0.05 < off(weight.to(FP8).float())
    layer = Linear(64, 64, bias=False)
    layer.weight = torch.nn.Parameter(stored, requires_grad=False)
    layer.register_buffer("weight_scale", scale)
    eye = torch.eye(64)
    plain, delta = layer(eye).T, update.scale * b @ a
    layer.update = update
    kept = layer(eye).T - plain
    merged, scale = to_fp8(weight + delta)
    torch.testing.assert_close(kept, delta, atol=1e-6, rtol=1e-3)
    assert float(((merged.float() * scale - plain) - delta).norm() / delta.norm()) > 1  # more noise than update


@torch.inference_mode()
def test_a_vae_that_overflows_in_fp16_continues_in_fp32_and_says_so_once(
    trained: Path, kolors_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SDXL's does: its inner activations pass 65,504. Here one layer's are made to, and the next one's small again."""
    model = load(trained, base=kolors_base, dtype=torch.float16)
    large = model.vae.decoder.mid_block.resnets[0].conv1
    large.weight.mul_(2e4 / float(large.weight.abs().max()))
    first, second = model(IMAGE), model(IMAGE)
    finite = bool(torch.isfinite(first.image).all())
    assert model.overflowed and finite
    apart = float((first.image - second.image).std() / second.image.std())
    assert apart < 0.1, apart  # the first was encoded before it was known
    assert [r.message for r in caplog.records if "overflows in fp16" in r.message] == [
        "The VAE of the kolors model overflows in fp16: it runs in fp32 from here on."
    ]
    exact = load(trained, base=kolors_base)
    exact.vae.decoder.mid_block.resnets[0].conv1.weight.copy_(large.weight)
    assert float((first.image - exact(IMAGE).image).std()) < 0.1 * float(first.image.std())


def test_an_adapter_without_a_prompt_asks_for_one(trained: Path, kolors_base: Path, tmp_path: Path) -> None:
    header = adapter.read_table(trained).metadata
    tensors = {k: v for k, v in load_file(trained).items() if not k.startswith("prompt.")}
    save_file(tensors, tmp_path / "bare.safetensors", header)
    with pytest.raises(CheckpointError, match="carries no prompt: give it a prompt file"):
        load(tmp_path / "bare.safetensors", base=kolors_base)


def test_another_vae_is_told_from_another_unet(trained: Path, kolors_base: Path, tmp_path: Path) -> None:
    model = TADiSR(tiny_kolors_config())
    model.vae.half().save_pretrained(tmp_path / "vae", variant="fp16")
    with pytest.raises(CheckpointError, match="was trained on another vae of kolors"):
        load(trained, base=kolors_base, vae=tmp_path / "vae")


def test_living_bytes_are_counted() -> None:
    x = torch.empty(1000, device="meta")
    with Alive() as alive:
        y = x + 1
        y = y + 1  # two alive while it is made
        del y
        _ = x + 1
    assert alive.peak == 8000 and alive.held == 4000


@pytest.mark.slow
def test_kolors_fits_the_cards_it_is_said_to_fit() -> None:
    """docs/user/kolors.md: 8 GB with fp8, 12 GB in bf16, a tile of 768, a gigabyte left for driver and workspaces."""
    config = load_preset()
    fp8 = plan_memory(config, dtype=FP8, compute=torch.bfloat16)
    bf16 = plan_memory(config, dtype=torch.bfloat16, compute=torch.bfloat16)
    assert fp8["together"] < 7e9 and bf16["together"] < 10e9
    assert bf16["weights"]["unet"] == 2 * 2_579_458_820
    assert bf16["weights"]["vae"] == 2 * 83_653_863
    assert 0.5 < fp8["weights"]["unet"] / bf16["weights"]["unet"] < 0.51


def load_preset():
    from tadisr import preset

    return preset("kolors")
