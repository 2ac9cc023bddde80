"""From an image to the result: any size, channels, batch, scale; no seams; the same bytes twice."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from field_images import draw_logo, draw_sticker
from repository import ROOT
from torch import Tensor

import tadisr
from tadisr import ConfigError, ImageError, TADiSR, upscale
from tadisr.errors import ResultError
from tadisr.images import read_image, resize_image
from tadisr.images.tensors import to_tensor
from tadisr.inference import staged as stages
from tadisr.inference import upscaling
from tadisr.inference.preview import DIMMED
from tadisr.inference.tiling import Tiling, list_windows
from tadisr.inference.upscale import Upscaled
from tadisr.inference.upscale_strips import upscale_strips

SAMPLE = ROOT / "sample" / "sample.png"


@pytest.fixture(scope="module")
def shipped() -> TADiSR:
    return tadisr.load()


SIDES = [1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 23, 31, 40, 65]


@pytest.mark.slow
def test_no_nan_for_225_sizes(compact: TADiSR) -> None:
    torch.manual_seed(0)
    for height, width in itertools.product(SIDES, SIDES):
        result = upscale(compact, torch.rand(1, 3, height, width), tiling=Tiling(tile=128, overlap=64))
        assert result.image.shape == (1, 3, height * 4, width * 4)
        assert result.mask.shape == (1, 1, height * 4, width * 4)
        for tensor in (result.image, result.mask):
            assert torch.isfinite(tensor).all() and tensor.min() >= 0 and tensor.max() <= 1


def test_kolors_takes_odd_sizes_too(tiny_kolors: TADiSR) -> None:
    for size in ((1, 9), (17, 30)):
        result = upscale(tiny_kolors, torch.rand(1, 3, *size), tiling=Tiling(tile=64, overlap=32))
        assert result.image.shape[-2:] == (size[0] * 4, size[1] * 4)
        assert torch.isfinite(result.image).all()


def test_same_bytes_twice(shipped: TADiSR) -> None:
    lr = read_image(SAMPLE)[..., :60, :70]
    first, second = (upscale(shipped, lr, tiling=Tiling(tile=128, overlap=64, batch=2)) for _ in range(2))
    assert torch.equal(first.image, second.image) and torch.equal(first.mask, second.mask)


def steps(picture: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring columns, (W - 1,)."""
    return (picture[..., 1:] - picture[..., :-1]).abs().mean((0, 1, 2))


def seam(picture: Tensor, columns: list[int]) -> float:
    """How much larger the steps are where tiles begin or end than everywhere else."""
    along = steps(picture)
    return float(along[torch.tensor(columns) - 1].mean() / along.mean())


def test_no_seams(shipped: TADiSR) -> None:
    """Where tiles begin and end the tiled image has no step that the whole one lacks, in image and mask."""
    lr = read_image(SAMPLE)[..., 20:120, 10:200]
    whole = upscale(shipped, lr, tiling=Tiling(tile=2048, overlap=0, margin=0))
    tiled = upscale(shipped, lr, tiling=Tiling(tile=256, overlap=128, margin=0))
    butted = upscale(shipped, lr, tiling=Tiling(tile=256, overlap=0, margin=0))
    ends = [128, 256, 384, 504, 512, 632]
    for one, other in ((whole.image, tiled.image), (whole.mask, tiled.mask)):
        assert seam(other, ends) <= seam(one, ends) * 1.02
    borders = torch.tensor([256, 504, 512]) - 1

    def added(result: Upscaled) -> float:
        """Steps that tiling brings where tiles meet, against those that it brings between any two columns."""
        along = steps(result.image - whole.image)
        return float(along[borders].mean() / along.mean())

    assert added(tiled) < 2 < 5 < added(butted)  # the measure sees real seams
    larger = upscale(shipped, lr, tiling=Tiling(tile=512, overlap=256, margin=0))
    assert steps(larger.image - whole.image)[torch.tensor([248, 512]) - 1].max() < 0.5 / 255


def test_constant_alpha_is_carried_beside_the_colours(compact: TADiSR) -> None:
    torch.manual_seed(0)
    rgb, alpha = torch.rand(2, 3, 9, 14), torch.full((2, 1, 9, 14), 0.7)
    result = upscale(compact, torch.cat([rgb, alpha], 1))
    assert torch.equal(result.image[:, :3], upscale(compact, rgb).image)
    torch.testing.assert_close(result.image[:, 3:], torch.full((2, 1, 36, 56), 0.7))


def test_varying_alpha_is_upscaled_as_an_image_of_its_own(compact: TADiSR) -> None:
    """Light colours: as light on dark; dark ones: as dark on light; its text joins the mask."""
    torch.manual_seed(0)
    alpha = torch.rand(2, 1, 9, 14)
    for ink in (0.0, 1.0):
        result = upscale(compact, torch.cat([torch.full((2, 3, 9, 14), ink), alpha], 1))
        picture = upscale(compact, alpha if ink else 1 - alpha)
        torch.testing.assert_close(result.image[:, 3:], picture.image if ink else 1 - picture.image, atol=1e-4, rtol=0)
        assert (result.mask >= picture.mask - 1e-4).all()
    assert upscale(compact, torch.cat([alpha, alpha], 1)).image.shape == (2, 2, 36, 56)


def test_grey_stays_grey_to_the_last_bit(compact: TADiSR) -> None:
    gray = torch.rand(2, 1, 20, 70)
    gray[1] = gray[1].round()
    result = upscale(
        compact, gray.repeat(1, 3, 1, 1), tiling=Tiling(tile=128, overlap=32), scale=3, color_fix="wavelet"
    )
    assert torch.equal(result.image[:, 0], result.image[:, 1]) and torch.equal(result.image[:, 0], result.image[:, 2])
    one = upscale(compact, gray, tiling=Tiling(tile=128, overlap=32), scale=3, color_fix="wavelet")
    assert torch.equal(one.image[:, 0], result.image[:, 0])


@pytest.mark.parametrize("color_fix", ["off", "adain", "wavelet"])
def test_levels_and_strips_give_the_same(compact: TADiSR, color_fix: str) -> None:
    """What the command does: 8-bit levels in, strips out, from top to bottom."""
    levels = torch.randint(0, 256, (1, 4, 60, 40), dtype=torch.uint8)
    options = {"scale": 2.5, "tiling": Tiling(tile=128, overlap=32), "fidelity": 0.3, "color_fix": color_fix}
    whole = upscale(compact, levels / 255, **options)
    strips = list(upscale_strips(compact, levels, **options))
    assert len(strips) > 1 or color_fix != "off"
    assert [strip.top for strip in strips] == [sum(len(s.mask) for s in strips[:i]) for i in range(len(strips))]
    torch.testing.assert_close(torch.cat([strip.pixels for strip in strips]).permute(2, 0, 1)[None], whole.image)
    torch.testing.assert_close(torch.cat([strip.mask for strip in strips])[None, None], whole.mask)


def test_borders_are_as_good_as_the_inside(shipped: TADiSR) -> None:
    white = upscale(shipped, torch.ones(1, 3, 64, 64)).image
    bare = upscale(shipped, torch.ones(1, 3, 64, 64), tiling=Tiling(margin=0)).image
    assert white.min() >= 254 / 255 and bare.min() < white.min()


def test_no_halo_around_what_is_transparent(shipped: TADiSR) -> None:
    """A disc of one colour over transparent black: that colour wherever it is seen."""
    sticker = to_tensor(np.asarray(draw_sticker()).copy())
    image = (upscale(shipped, sticker).image * 255).round()
    seen = image[0, :3, image[0, 3] > 0]
    assert (seen - torch.tensor([250.0, 220, 60])[:, None]).abs().max() <= 3


@pytest.mark.parametrize("ink", [0, 255])
def test_text_that_is_only_in_the_alpha_channel(shipped: TADiSR, ink: int) -> None:
    """Its mask and edges are those of the same text laid on a ground."""
    logo, flat = (to_tensor(np.asarray(image).copy()) for image in draw_logo(ink))
    result, twin = upscale(shipped, logo), upscale(shipped, flat)
    assert (result.mask - twin.mask).abs().mean() < 0.01 and twin.mask.max() > 0.5
    laid = ink / 255 * result.image[:, 3:] + (1 - ink / 255) * (1 - result.image[:, 3:])
    assert (laid - twin.image).abs().max() < 2 / 255


@pytest.mark.parametrize(("scale", "size"), [(4, (40, 52)), (3, (30, 39)), (2.5, (25, 32)), (1, (10, 13))])
def test_smaller_scales_are_exact_resizes(compact: TADiSR, scale: float, size: tuple[int, int]) -> None:
    lr = torch.rand(1, 3, 10, 13)
    result = upscale(compact, lr, scale=scale)
    assert result.image.shape[-2:] == result.mask.shape[-2:] == size
    full = upscale(compact, lr).image
    torch.testing.assert_close(result.image, full if scale == 4 else resize_image(full, size))


def test_color_fix_brings_the_mean_back(compact: TADiSR) -> None:
    lr = torch.rand(1, 3, 24, 24)
    drift = (upscale(compact, lr).image.mean((2, 3)) - lr.mean((2, 3))).abs().max()
    fixed = upscale(compact, lr, color_fix="adain").image
    assert (fixed.mean((2, 3)) - lr.mean((2, 3))).abs().max() < drift


@pytest.mark.parametrize(
    ("picture", "scale", "error"),
    [
        (torch.rand(3, 8, 8), 4, ImageError),
        (torch.rand(1, 5, 8, 8), 4, ImageError),
        (torch.rand(1, 3, 0, 8), 4, ImageError),
        (torch.full((1, 3, 8, 8), float("nan")), 4, ImageError),
        (torch.full((1, 3, 8, 8), float("inf")), 4, ImageError),
        (torch.rand(1, 3, 8, 8), 5, ConfigError),
        (torch.rand(1, 3, 8, 8), 0.5, ConfigError),
    ],
)
def test_refused(compact: TADiSR, picture: Tensor, scale: float, error: type[Exception]) -> None:
    with pytest.raises(error):
        upscale(compact, picture, scale=scale)


def test_without_joint_decoders_the_mask_is_empty() -> None:
    import dataclasses

    config = tadisr.preset("compact")
    model = TADiSR(dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, joint=False)))
    assert not upscale(model.eval(), torch.rand(1, 3, 8, 8)).mask.any()


def test_a_network_that_gives_no_numbers_is_an_error(compact: TADiSR) -> None:
    """NaN in a result is never an image, in one node or in stages."""
    broken = copy.deepcopy(compact)
    broken.vae.decoder.conv_out.weight.data.fill_(float("nan"))
    lr = torch.rand(1, 3, 16, 16)
    with pytest.raises(ResultError, match="gave NaN or infinite values in float32: its weights are damaged"):
        upscale(broken, lr)
    broken.file = "mine.safetensors"  # as `load` sets it
    samples, source = stages.encode(broken, lr)
    samples, attention = stages.denoise(broken, samples, source)
    with pytest.raises(ResultError, match=r"model of mine\.safetensors gave NaN"):
        stages.decode(broken, samples, attention)
    broken.vae.encoder.conv_in.weight.data.fill_(3e38)
    with pytest.raises(ResultError, match="gave NaN"):
        stages.encode(broken, lr)


def test_the_shipped_model_sharpens_and_finds_the_text(shipped: TADiSR) -> None:
    """On the sample: nearer to the input when brought down again than not, sharper than bicubic, a mask on the signs."""
    lr = read_image(SAMPLE)
    result = upscale(shipped, lr)
    again = resize_image(result.image, (lr.shape[2], lr.shape[3]))
    assert (again - lr).abs().mean() < 0.02
    plain = resize_image(lr, (result.image.shape[2], result.image.shape[3]))

    def sharpness(x: Tensor) -> Tensor:
        return (x[..., 1:] - x[..., :-1]).square().mean()

    assert sharpness(result.image) > 1.15 * sharpness(plain)
    notice, bricks = result.mask[..., 400:860, 110:540], result.mask[..., 700:940, 650:980]
    assert notice.mean() > 1.5 * bricks.mean()  # it answers to mortar's fine lines too, less than to text


def test_fidelity_keeps_the_input_outside_the_text(shipped: TADiSR) -> None:
    lr = read_image(SAMPLE)[:, :3, 40:120, 40:140]
    plain = resize_image(lr, (320, 400))
    none, half, full = (upscale(shipped, lr, fidelity=value) for value in (0.0, 0.5, 1.0))
    assert torch.equal(none.mask, full.mask)
    torch.testing.assert_close(full.image, torch.lerp(plain, none.image, none.mask), atol=1e-5, rtol=0)
    torch.testing.assert_close(half.image, (none.image + full.image) / 2, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="fidelity is 2"):
        upscale(shipped, lr, fidelity=2)


def test_an_unedited_mask_changes_nothing_in_tiles(shipped: TADiSR, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near its borders the mask of a tile is not that of the whole image: the comparison is with the whole."""
    from tadisr.model import network

    monkeypatch.setattr(network, "find_offsets", lambda *_, **__: pytest.fail("the decoders were steered"))
    lr = read_image(SAMPLE)[:, :3, 60:140, 40:168]
    tiling = Tiling(tile=256, overlap=64)
    plain = upscale(shipped, lr, tiling=tiling)
    small = torch.nn.functional.interpolate(plain.mask, scale_factor=0.25, mode="area")
    same = upscale(shipped, lr, tiling=tiling, guide=small)
    assert torch.equal(same.image, plain.image) and torch.equal(same.mask, plain.mask)


def test_only_tiles_with_edits_are_steered(shipped: TADiSR, monkeypatch: pytest.MonkeyPatch) -> None:
    from tadisr.model import network

    steered, real = [], network.find_offsets
    monkeypatch.setattr(network, "find_offsets", lambda *a, **k: steered.append(a) or real(*a, **k))
    lr = read_image(SAMPLE)[:, :3, 60:100, 40:168]
    tiling = Tiling(tile=192, overlap=32)
    plain = upscale(shipped, lr, tiling=tiling)
    guide = plain.mask.clone()
    guide[..., 480:] = 1  # the last columns of 512
    result = upscale(shipped, lr, tiling=tiling, guide=guide)
    assert 1 <= len(steered) < len(list_windows(1, 40, 128, tiling))
    assert torch.equal(result.image[..., :256], plain.image[..., :256])
    assert result.mask[..., 480:].mean() > plain.mask[..., 480:].mean()


@pytest.mark.slow
def test_a_guide_goes_through_the_tiles(shipped: TADiSR) -> None:
    lr = read_image(SAMPLE)[:, :3, 60:140, 40:168]
    plain = upscale(shipped, lr, tiling=Tiling(tile=256, overlap=64))
    guide = plain.mask.clone()
    guide[..., 256:] = 0  # wiped away in the right half
    steered = upscale(shipped, lr, tiling=Tiling(tile=256, overlap=64, batch=2), guide=guide)
    assert steered.mask[..., 256:].mean() < 0.2 * plain.mask[..., 256:].mean()
    assert (steered.mask - plain.mask)[..., :200].abs().mean() < 0.02


def test_text_aware_seams_go_around_the_text_that_a_first_look_finds(
    compact: TADiSR, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coarse pass sees the whole image in one tile; its mask decides where the tiles are joined."""
    lr = torch.rand(2, 3, 100, 60)
    seen: list[Tensor] = []
    real = upscaling.blend_tiles

    def watched(*arguments, text, **options):
        seen.append(text)
        return real(*arguments, text=text, **options)

    monkeypatch.setattr(upscaling, "blend_tiles", watched)
    upscale(compact, lr, tiling=Tiling(tile=128, overlap=64, text_aware=True))
    upscale(compact, lr, tiling=Tiling(tile=512, overlap=64, text_aware=True))
    upscale(compact, lr, tiling=Tiling(tile=128, overlap=64))
    assert seen[0].shape == (2, 1, 128, 76) and seen[1] is None and seen[2] is None


def test_a_preview_of_what_is_done(compact: TADiSR) -> None:
    """One for every batch of tiles: the finished part is the result's, the rest the dimmed input's."""
    lr = torch.rand(2, 3, 40, 150)
    shown: list[Tensor] = []
    result = upscale(compact, lr, tiling=Tiling(tile=128, overlap=0, margin=0), preview=shown.append)
    assert len(shown) == 20 and {tuple(picture.shape) for picture in shown} == {(1, 3, 137, 512)}
    plain, done, last = (resize_image(picture, (137, 512)) for picture in (lr[:1], result.image[:1], result.image[1:]))
    apart = 0.7 * (plain - done).abs().mean()
    assert (shown[0] - done)[..., :80, :100].abs().mean() < apart
    torch.testing.assert_close(shown[0][..., 120:], DIMMED * plain[..., 120:], atol=1e-5, rtol=0)
    assert (shown[9] - done).abs().mean() < apart and (shown[19] - last).abs().mean() < apart
