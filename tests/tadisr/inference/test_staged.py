"""The stages chained by hand are the whole upscaler, and take latents that were changed or made elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import tadisr
from tadisr import ImageError, TADiSR
from tadisr.inference import staged as stages
from tadisr.inference.mask_edits import merge_edits
from tadisr.inference.staged import Source
from tadisr.inference.tiling import Tiling

BARE = Tiling(margin=0)  # stages know no margin: their latents are of the image itself


@pytest.fixture(params=["compact", "tiny_kolors"])
def model(request: pytest.FixtureRequest) -> TADiSR:
    return request.getfixturevalue(request.param)


def chain(model: TADiSR, image: Tensor, scale: float = 4.0) -> tadisr.Upscaled:
    samples, source = stages.encode(model, image, scale=scale)
    samples, attention = stages.denoise(model, samples, source)
    return stages.decode(model, samples, attention)


@pytest.mark.parametrize(
    ("shape", "scale"), [((1, 3, 16, 24), 4.0), ((2, 4, 7, 11), 2.5), ((1, 1, 1, 1), 4.0), ((1, 2, 9, 5), 1.0)]
)
def test_the_chain_is_the_upscaler(model: TADiSR, shape: tuple[int, ...], scale: float) -> None:
    image = torch.rand(shape)
    if shape[1] in (2, 4):
        image[:, -1] = 0.4  # where alpha varies the upscaler runs it too
    whole, staged = tadisr.upscale(model, image, scale=scale, tiling=BARE), chain(model, image, scale)
    torch.testing.assert_close(staged.image, whole.image, atol=1e-4, rtol=0)
    torch.testing.assert_close(staged.mask, whole.mask, atol=1e-4, rtol=0)


def test_the_latent_is_what_the_vae_gives(tiny_kolors: TADiSR) -> None:
    """Not scaled, as ComfyUI's own VAE Encode has it: any node that takes a latent of this VAE takes ours."""
    image = torch.rand(1, 3, 16, 16)
    samples, source = stages.encode(tiny_kolors, image)
    with torch.inference_mode():
        expected = tiny_kolors.vae.encode(source.upscaled * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(samples, expected, atol=1e-5, rtol=1e-5)


def test_a_latent_from_elsewhere_is_decoded_without_skips(tiny_kolors: TADiSR) -> None:
    samples, attention = stages.denoise(tiny_kolors, torch.randn(2, 4, 5, 9))
    result = stages.decode(tiny_kolors, samples, attention)
    assert result.image.shape == (2, 3, 40, 72) and result.mask.shape == (2, 1, 40, 72)
    with torch.inference_mode():
        latent = samples * tiny_kolors.config.vae["scaling_factor"]
        image, *_ = tiny_kolors.decode(latent, tiny_kolors.project(latent, attention.responses), None)
    torch.testing.assert_close(result.image, image.clamp(0, 1), atol=1e-5, rtol=0)


def test_a_residual_model_says_what_a_foreign_latent_lacks(compact: TADiSR) -> None:
    samples, attention = stages.denoise(compact, torch.randn(1, 8, 4, 4))
    with pytest.raises(ImageError, match="does not bring"):
        stages.decode(compact, samples, attention)


def test_images_are_picked_and_repeated_with_their_latents(model: TADiSR) -> None:
    """Told by what the latents show, after the first stage and after the second."""
    images = torch.rand(3, 4, 8, 8)
    images[:, 3] = 0.4  # where alpha varies the upscaler runs it too
    whole = tadisr.upscale(model, images, tiling=BARE).image
    samples, source = stages.encode(model, images)
    z, attention = stages.denoise(model, samples[[2, 1]], source)
    torch.testing.assert_close(stages.decode(model, z, attention).image, whole[[2, 1]], atol=1e-4, rtol=0)
    twice = stages.decode(model, z[[1, 1, 0]], attention).image
    torch.testing.assert_close(twice, whole[[1, 1, 2]], atol=1e-4, rtol=0)


def test_a_latent_sampled_anew_on_a_base_is_decoded_without_its_image(tiny_kolors: TADiSR) -> None:
    samples, source = stages.encode(tiny_kolors, torch.rand(1, 4, 7, 7))
    _, attention = stages.denoise(tiny_kolors, samples, source)
    assert stages.decode(tiny_kolors, torch.randn(samples.shape), attention).image.shape == (1, 3, 32, 32)


def test_one_mask_or_one_for_each_image(compact: TADiSR) -> None:
    samples, source = stages.encode(compact, torch.rand(2, 3, 8, 8))
    z, attention = stages.denoise(compact, samples, source)
    with pytest.raises(ImageError, match="3 masks for 2 images"):
        stages.decode(compact, z, attention, guide=torch.rand(3, 1, 8, 8))


def test_a_resized_latent_gives_a_resized_image(model: TADiSR) -> None:
    samples, source = stages.encode(model, torch.rand(1, 4, 10, 12), scale=2)
    larger = torch.nn.functional.interpolate(samples, scale_factor=2, mode="bicubic")
    z, attention = stages.denoise(model, larger, source)
    assert attention.size == (80, 96) and attention.padded == stages.latent_pixels(model, larger)
    assert stages.decode(model, z, attention).image.shape == (1, 4, 40, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: torch.nn.functional.interpolate(z, scale_factor=(1, 2)), "was stretched"),
        (lambda z: z[..., :2], "cut, joined or sampled anew"),
        (lambda z: z.flip(3), "flipped or turned"),
        (lambda z: z.flip(2), "flipped or turned"),
        (lambda z: z.rot90(1, (2, 3)), "flipped or turned"),
        (lambda z: z[..., :4, :4], "does not bring"),
        (lambda z: torch.randn(2, *z.shape[1:]), "does not bring"),
        (lambda z: torch.randn(3, *z.shape[1:]), "of 2 images, the latent of 3 others"),
        (lambda z: z[:, :3], "does not fit the .* model: expected"),
        (lambda z: z * float("nan"), "NaN or infinite"),
        (lambda z: z[0], "does not fit"),
    ],
)
def test_latents_that_cannot_be_told_get_one_sentence(compact: TADiSR, change, message: str) -> None:
    samples, source = stages.encode(compact, torch.rand(2, 3, 16, 16))
    z, attention = stages.denoise(compact, samples, source)
    with pytest.raises(ImageError, match=message):
        stages.decode(compact, change(z), attention)


def test_progress_counts_images(compact: TADiSR) -> None:
    calls: list[tuple[int, int]] = []
    stages.encode(compact, torch.rand(2, 3, 8, 8), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


# ---- the guide ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> tuple[TADiSR, Tensor, stages.Attention, Source, tadisr.Upscaled]:
    """The shipped model on an image with text, up to the decoders."""
    from tadisr.images import read_image

    model = tadisr.load()
    image = read_image("sample/sample.png")[:, :3, 60:140, 40:168]
    samples, source = stages.encode(model, image)
    samples, attention = stages.denoise(model, samples, source)
    return model, samples, attention, stages.decode(model, samples, attention)


def test_a_painted_mask_moves_the_painted_part_and_little_else(scene) -> None:
    model, samples, attention, plain = scene
    guide = plain.mask.clone()
    guide[..., 80:240, 128:384] = 0  # the user wipes the text away in the middle
    painted = torch.zeros_like(guide, dtype=torch.bool)
    painted[..., 80:240, 128:384] = True
    steered = stages.decode(model, samples, attention, guide=guide)
    inside, outside = ((steered.mask - guide).abs()[where].mean() for where in (painted, ~painted))
    before = (plain.mask - guide).abs()[painted].mean()
    assert inside < 0.1 * before and outside < 0.1 * before
    change = (steered.image - plain.image).abs().mean(1, keepdim=True)
    assert change[painted].mean() > 1.3 * change[~painted].mean() and change[~painted].mean() < 1 / 255


def test_the_models_own_mask_and_strength_0_change_nothing(scene) -> None:
    model, samples, attention, plain = scene
    same = stages.decode(model, samples, attention, guide=plain.mask)
    assert (same.image - plain.image).abs().max() < 1e-3
    off = stages.decode(model, samples, attention, guide=1 - plain.mask, strength=0)
    assert torch.equal(off.image, plain.image)


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_a_mask_that_was_only_resized_costs_nothing_and_changes_nothing(
    scene, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first template of mask editing hands it over: a quarter of the size, nothing painted."""
    from tadisr.model import network

    model, samples, attention, plain = scene
    monkeypatch.setattr(network, "find_offsets", lambda *_, **__: pytest.fail("the decoders were steered"))
    small = torch.nn.functional.interpolate(plain.mask, scale_factor=0.25, mode=mode).clamp(0, 1)
    same = stages.decode(model, samples, attention, guide=small)
    assert torch.equal(same.image, plain.image) and torch.equal(same.mask, plain.mask)


def test_edits_are_put_onto_the_models_own_mask() -> None:
    own = torch.zeros(1, 1, 128, 256)
    own[..., 32:64, 32:96] = 1
    guide = torch.nn.functional.interpolate(own, scale_factor=0.25, mode="area")
    assert merge_edits(own, guide) is None and merge_edits(own, own) is None
    guide[..., 20:24, 40:48] = 1  # painted
    guide[..., 8:16, 8:12] = 0  # wiped
    found = merge_edits(own, guide)
    assert found is not None
    merged, edited = found
    assert edited[..., 84:92, 166:186].min() == 1 and not edited[..., :, 64:140].any()
    assert merged[..., 84:92, 166:186].min() > 0.95 and merged[..., 36:60, 36:44].max() < 0.05
    assert torch.equal(merged[..., :, 64:140], own[..., :, 64:140])


def test_a_guide_works_on_a_base_and_under_a_hosts_inference_mode(tiny_kolors: TADiSR) -> None:
    with torch.inference_mode():
        samples, source = stages.encode(tiny_kolors, torch.rand(1, 3, 8, 8))
        z, attention = stages.denoise(tiny_kolors, samples, source)
        plain = stages.decode(tiny_kolors, z, attention)
        guide = torch.zeros(1, 1, 32, 32)
        steered = stages.decode(tiny_kolors, z, attention, guide=guide)
    assert (steered.mask - guide).abs().mean() < (plain.mask - guide).abs().mean()
