"""The network as a whole: Eq. 1, the joint decoders, gradients, ablations."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny import randomize, tiny_kolors_config

from tadisr import ConfigError, ImageError, TADiSR, preset
from tadisr.config import DecoderConfig, ModelConfig, ScheduleConfig, TextAttentionConfig
from tadisr.model.lora import add_lora
from tadisr.model.schedule import alpha_beta


def test_alpha_beta_of_kolors_and_of_the_release() -> None:
    assert alpha_beta(ScheduleConfig()) == pytest.approx((0.86769, 0.49710), abs=1e-5)
    assert alpha_beta(ScheduleConfig(alpha_bar=0.7536917)) == pytest.approx((0.86815, 0.49629), abs=1e-5)


def test_one_step_is_equation_1(tiny_kolors: TADiSR) -> None:
    latent = torch.randn(1, 4, 8, 8)
    alpha, beta = alpha_beta(tiny_kolors.config.schedule)
    with torch.inference_mode():
        noise = tiny_kolors.unet(latent, 200, **tiny_kolors.prompt.conditions(1)).sample
        z, _ = tiny_kolors.denoise(latent)
    torch.testing.assert_close(alpha * z + beta * noise, latent, atol=1e-5, rtol=1e-5)


def test_the_encoder_is_the_vaes_and_takes_the_mode(tiny_kolors: TADiSR) -> None:
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        latent, skips = tiny_kolors.encode(image)
        mode = tiny_kolors.vae.encode(image * 2 - 1).latent_dist.mode()
    assert torch.equal(latent, mode * tiny_kolors.vae.config.scaling_factor)
    assert [s.shape[-2:] for s in skips] == [(64, 96), (32, 48), (16, 24), (8, 12)]


@pytest.mark.parametrize("name", ["kolors", "compact"])
def test_new_interaction_blocks_leave_the_image_decoder_alone(name: str) -> None:
    """At initialisation, the skips at zero: bit-identical to AutoencoderKL's decoder, whatever a_tex says."""
    torch.manual_seed(0)
    config = tiny_kolors_config() if name == "kolors" else preset("compact")
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, zero_skips=True))
    model = TADiSR(config).eval()
    torch.nn.init.normal_(model.vae.decoder.conv_out.weight, std=0.1)
    channels = config.vae["latent_channels"]
    latent, a_tex = torch.randn(1, channels, 8, 6), torch.randn(1, config.decoder.text_channels[0], 8, 6)
    from tadisr.model.vae import decode_latent

    with torch.inference_mode():
        _, skips = model.encode(torch.rand(1, 3, 64, 48))
        image, logits, _ = decode_latent(model.vae, model.decoder, latent, a_tex, skips)
        plain = model.vae.decode(latent / model.vae.config.scaling_factor).sample
    assert logits is not None and logits.shape[-2:] == plain.shape[-2:]
    assert torch.equal(image, plain)


def test_each_stream_gates_the_other() -> None:
    """Eq. 6: with its residual awake, a change in either stream moves the other one."""
    from tadisr.model.joint_decoder import CDIB

    torch.manual_seed(0)
    block = CDIB(image_channels=16, text_channels=8, groups=4).eval()
    z, a = torch.randn(1, 16, 4, 4), torch.randn(1, 8, 4, 4)
    same_z, same_a = block(z, a)
    assert torch.equal(same_z, z) and torch.equal(same_a, a)
    for branch in (block.image, block.text):
        torch.nn.init.ones_(branch.scale)
    z1, a1 = block(z, a)
    z2, _ = block(z, a + 1)
    _, a2 = block(z * 2, a)
    assert not torch.allclose(z1, z2) and not torch.allclose(a1, a2)


@pytest.mark.parametrize("name", ["kolors", "compact"])
def test_gradients_reach_all_that_trains_and_nothing_frozen(name: str) -> None:
    torch.manual_seed(0)
    model = TADiSR(tiny_kolors_config() if name == "kolors" else preset("compact"))
    if model.config.lora is not None:
        add_lora(model, model.config.lora)
    randomize(model)
    output = model.train()(torch.rand(1, 3, 64, 64))
    (output.image.square().mean() + output.mask_logits.square().mean()).backward()
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    silent = [n for n, p in trained.items() if p.grad is None or not p.grad.any()]
    assert silent == []
    frozen = {n: p for n, p in model.named_parameters() if not p.requires_grad}
    assert all(p.grad is None for p in frozen.values())
    assert bool(frozen) == (name == "kolors")
    if name == "kolors":
        assert all(".lora_" in n for n in trained if n.startswith(("unet.", "vae.")))
        assert not any(n.startswith("vae.encoder") for n in trained)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("taca", [True, False])
@pytest.mark.parametrize("skips", [True, False])
def test_ablations_give_image_and_mask_of_their_config(joint: bool, taca: bool, skips: bool) -> None:
    config = dataclasses.replace(
        preset("compact"),
        decoder=dataclasses.replace(preset("compact").decoder, joint=joint, skips=skips),
        text_attention=TextAttentionConfig(enabled=taca),
    )
    output = TADiSR(config)(torch.rand(1, 3, 32, 48))
    assert output.image.shape == (1, 3, 32, 48)
    assert (output.mask_logits is None) == (not joint)
    assert bool(output.responses) == taca


def test_kolors_tiny_runs_and_is_not_square(tiny_kolors: TADiSR) -> None:
    with torch.inference_mode():
        output = tiny_kolors(torch.rand(1, 3, 64, 96))
    assert output.image.shape == (1, 3, 64, 96)
    assert output.mask_logits is not None and output.mask_logits.shape == (1, 1, 64, 96)
    assert tiny_kolors.config.multiple == 32
    assert tiny_kolors.config.latent_factor == 8


def test_real_kolors_has_the_published_number_of_parameters() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(preset("kolors").unet)
        vae = AutoencoderKL.from_config(preset("kolors").vae)
    assert sum(p.numel() for p in unet.parameters()) == 2_579_458_820
    assert len(unet.state_dict()) == 1682
    assert sum(p.numel() for p in vae.parameters()) == 83_653_863


def test_a_wrong_input_is_named(compact: TADiSR) -> None:
    with pytest.raises(ImageError, match="multiples of 16"):
        compact(torch.rand(1, 3, 30, 32))


def test_config_survives_json_and_refuses_the_unknown() -> None:
    import json

    for name in ("kolors", "compact"):
        config = preset(name)
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="unknown field 'cdibs'"):
        ModelConfig.from_dict(preset("compact").to_dict() | {"cdibs": 3})
    with pytest.raises(ConfigError, match=r"decoder\.joint is 'yes'"):
        ModelConfig.from_dict(preset("compact").to_dict() | {"decoder": {"joint": "yes"}})
    with pytest.raises(ConfigError, match="no preset"):
        preset("huge")
    assert DecoderConfig().text_channels[0] == 512
