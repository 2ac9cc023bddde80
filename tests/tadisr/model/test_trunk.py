"""The compact-trunk network: what its trunk, guide and certainty outputs do, and that they train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import trunk_config

import tadisr
from tadisr import TADiSR, upscale
from tadisr.checkpoints import adapter
from tadisr.errors import ConfigError, ImageError
from tadisr.images import resize_image
from tadisr.inference import staged
from tadisr.inference.tiling import Tiling
from tadisr.inference.upscale_strips import upscale_strips
from tadisr.model.certainty import average_window, certainty_map, keep_sure_detail
from tadisr.model.trunk import CertaintyHead
from tadisr.profiling import benchmark, memory


@pytest.fixture
def model() -> TADiSR:
    torch.manual_seed(0)
    return TADiSR(trunk_config())


def shaken(model: TADiSR) -> TADiSR:
    """Give every weight a random value, the zero-initialised ones too."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return model


def test_an_untrained_trunk_returns_the_upscaled_input(model: TADiSR) -> None:
    image = torch.rand(2, 3, 48, 64)
    output = model(image)
    torch.testing.assert_close(output.image, image)
    assert output.mask_logits is not None and output.mask_logits.shape == (2, 1, 48, 64)
    assert output.log_variance is not None and output.log_variance.shape == (2, 1, 48, 64)


def test_the_latent_and_the_text_stream_reach_the_image(model: TADiSR) -> None:
    image = torch.rand(1, 3, 48, 48)
    shaken(model)(image).image.square().mean().backward()
    for name in ("vae.encoder.conv_in.weight", "text_attention.weight", "decoder.trunk.sections.0.text.first.weight"):
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_every_weight_of_a_shaken_model_gets_a_gradient(model: TADiSR) -> None:
    output = shaken(model)(torch.rand(1, 3, 48, 48), guide=torch.rand(1, 1, 48, 48))
    assert output.mask_logits is not None and output.log_variance is not None
    (output.image.square().mean() + output.mask_logits.square().mean() + output.log_variance.mean()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


def test_the_certainty_loss_does_not_reach_the_trunk(model: TADiSR) -> None:
    output = shaken(model)(torch.rand(1, 3, 48, 48))
    assert output.log_variance is not None
    output.log_variance.sum().backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert touched and all(name.startswith("decoder.trunk.certainty.") for name in touched)


def test_an_empty_guide_is_no_guide_and_a_drawn_one_changes_only_its_own_image(model: TADiSR) -> None:
    image, guide = torch.rand(2, 3, 48, 48), torch.zeros(2, 1, 48, 48)
    model = shaken(model).eval()
    with torch.no_grad():
        plain, empty = model(image), model(image, guide=guide)
        guide[1, :, 8:24, 8:24] = 1
        drawn = model(image, guide=guide)
    torch.testing.assert_close(empty.image, plain.image, rtol=0, atol=0)
    torch.testing.assert_close(drawn.image[0], plain.image[0], rtol=0, atol=1e-6)
    assert (drawn.image[1] - plain.image[1]).abs().max() > 1e-4


def test_a_trunk_checkpoint_is_loaded_as_it_was_saved(model: TADiSR, tmp_path: Path) -> None:
    adapter.save_checkpoint(shaken(model), tmp_path / "trunk.safetensors")
    loaded, image = tadisr.load(tmp_path / "trunk.safetensors"), torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image).image, model.eval()(image).image)
    assert adapter.read_header(tmp_path / "trunk.safetensors").config == model.config


def test_a_trunk_without_the_upscaled_input_is_refused(model: TADiSR) -> None:
    latent, skips = model.encode(torch.rand(1, 3, 48, 48))
    with pytest.raises(ImageError, match="upscaled input"):
        model.decode(latent, None, skips)


def test_detail_keeps_what_is_sure_and_drops_what_is_not() -> None:
    upscaled = torch.full((1, 3, 96, 192), 0.5)
    image = upscaled + 0.1
    log_variance = torch.full((1, 1, 96, 192), -12.0)
    log_variance[..., 96:] = -2.0
    kept = (keep_sure_detail(image, upscaled, log_variance, 0.7) - upscaled) / 0.1
    assert kept[..., :70].min() > 0.99 and kept[..., 125:].max() < 0.1
    assert keep_sure_detail(image, upscaled, log_variance, 1.0) is image
    softer = (keep_sure_detail(image, upscaled, log_variance + 4, 0.0) - upscaled) / 0.1
    assert softer.mean() < kept.mean()


def test_certainty_falls_with_the_variance_and_stays_in_range() -> None:
    values = certainty_map(torch.tensor([-12.0, -6.0, -3.0, 0.0]).reshape(1, 1, 1, 4)).flatten()
    assert values[0] > 0.96 and values[-1] < 1e-4 and (values.diff() < 0).all()


def test_the_average_is_over_the_window_inside_the_image() -> None:
    torch.testing.assert_close(average_window(torch.ones(1, 1, 20, 50)), torch.ones(1, 1, 20, 50))
    spot = torch.zeros(1, 1, 99, 99)
    spot[..., 49, 49] = 33.0**2
    found = average_window(spot)
    assert found[..., 49, 65] == pytest.approx(1.0) and found[..., 49, 66] == 0


def test_upscale_takes_detail_and_a_guide_in_one_pass(model: TADiSR) -> None:
    model, image = shaken(model).eval(), 0.25 + 0.5 * torch.rand(1, 3, 16, 16)
    trunk, upscaled = model.decoder.trunk, resize_image(image, (64, 64))
    assert trunk is not None and trunk.certainty is not None
    with torch.no_grad():  # a residual of a tenth, so that the image stays within [0, 1], and errors as large
        share = 0.1 / (model(upscaled).image - upscaled).std()
        for parameter in trunk.out.parameters():
            parameter *= share
        for parameter in trunk.certainty.last.parameters():
            parameter.zero_().add_(-4.0 if parameter.ndim == 1 else 0.0)
    full, default, none = (upscale(model, image, detail=detail).image for detail in (1.0, None, 0.0))
    assert (full - default).abs().max() > 1e-4 and (full - none).abs().max() > (full - default).abs().max()
    guide = torch.zeros(1, 1, 64, 64)
    torch.testing.assert_close(upscale(model, image, guide=guide).image, default)
    guide[..., 16:32, 16:32] = 1
    assert (upscale(model, image, guide=guide).image - default).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="detail is 2"):
        upscale(model, image, detail=2)


def test_the_stages_chain_to_what_one_pass_gives(model: TADiSR) -> None:
    model, image = shaken(model).eval(), torch.rand(1, 3, 16, 16)
    guide = torch.rand(1, 1, 64, 64)
    latent, source = staged.encode(model, image)
    latent, attention = staged.denoise(model, latent, source)
    for drawn, detail in ((None, 1.0), (guide, 0.5), (None, None)):
        result = staged.decode(model, latent, attention, guide=drawn, detail=detail)
        whole = upscale(model, image, tiling=Tiling(margin=0), guide=drawn, detail=detail)
        for name in ("image", "mask", "certainty"):
            torch.testing.assert_close(getattr(result, name), getattr(whole, name), atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="detail is -1"):
        staged.decode(model, latent, attention, detail=-1)


def test_certainty_is_given_in_tiles_at_any_scale_and_where_alpha_has_structure(model: TADiSR) -> None:
    model, image = shaken(model).eval(), torch.rand(1, 4, 40, 40)
    whole = upscale(model, image)
    assert whole.certainty is not None and whole.certainty.shape == (1, 1, 160, 160) and whole.certainty.std() > 1e-3
    with torch.inference_mode():
        expected = certainty_map(run(model, image[:, :3]))
    opaque = upscale(model, image[:, :3], tiling=Tiling(margin=0))
    torch.testing.assert_close(opaque.certainty, expected, atol=1e-3, rtol=0)
    small = upscale(model, image, scale=2, tiling=Tiling(tile=96, overlap=32))
    assert small.certainty is not None and small.certainty.shape == (1, 1, 80, 80)
    strips = list(upscale_strips(model, image, color_fix="adain"))
    found = torch.cat([strip.certainty for strip in strips if strip.certainty is not None])
    torch.testing.assert_close(found, whole.certainty[0, 0])


def run(model: TADiSR, image: torch.Tensor) -> torch.Tensor:
    """Predict the log variance of an image whose sides are multiples of the model's."""
    log_variance = model(resize_image(image, (4 * image.shape[2], 4 * image.shape[3]))).log_variance
    assert log_variance is not None
    return log_variance


def test_a_model_without_certainty_says_so(compact: TADiSR) -> None:
    assert upscale(compact, torch.rand(1, 3, 16, 16)).certainty is None


def test_bench_and_memory_count_a_trunk_model(model: TADiSR) -> None:
    report = benchmark.measure_stages(model.eval().requires_grad_(False), size=64, runs=1)
    assert set(report["ratios"]) == {"text_attention"} and report["stages"]["decode"]["seconds"] > 0
    counted = memory.plan_memory(model.config, dtype=torch.float32, compute=torch.float32, tile=64)
    assert counted["weights"]["all"] == sum(p.nbytes for p in model.state_dict().values())


def test_certainty_depends_on_the_size_of_the_features_only_by_its_logarithm() -> None:
    torch.manual_seed(0)
    head, hidden = CertaintyHead(channels=8, patch=4), torch.randn(1, 8, 6, 6)
    torch.nn.init.normal_(head.last.weight, std=0.1)
    small, large = head(hidden), head(100 * hidden)
    assert 0 < (small - large).abs().max() < 5  # the bare features would move it 100 times as far
    with torch.no_grad():
        head.first.weight[:, -1] = 0
    torch.testing.assert_close(head(hidden), head(100 * hidden), atol=1e-3, rtol=0)
