"""Eq. 7-9, term by term, against the formulas written out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tadisr import ConfigError
from train.config import LossConfig
from train.losses import Objective, dice_loss, focal_loss, grid_loss, lpips_backbone_file, make_lpips, modified_focal

OFF = LossConfig(mse=0, lpips="off", mf=0, seg_mse=0, focal=0, dice=0)


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.rand(2, 3, 24, 20),
        torch.randn(2, 1, 24, 20),
        torch.rand(2, 3, 24, 20),
        torch.rand(2, 1, 24, 20).round(),
    )


def sobel(image: torch.Tensor) -> torch.Tensor:
    """Compute the plain 3x3 Sobel pair on a replicated border by a convolution, (B, C, 2, H, W)."""
    x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    pair = torch.nn.functional.conv2d(padded, torch.stack([x, x.T])[:, None])
    return pair.unflatten(0, image.shape[:2])


def test_modified_focal_is_equation_8(pictures: tuple[torch.Tensor, ...]) -> None:
    image, logits, target, mask = pictures
    s = logits.sigmoid()
    wrong = (1 - s * mask - (1 - s) * (1 - mask)) ** 2
    expected = (wrong[:, :, None] * (sobel(image) - sobel(target)) ** 2).mean()
    torch.testing.assert_close(modified_focal(image, target, s, mask, 2.0), expected)
    plain = ((sobel(image) - sobel(target)) ** 2).mean()
    torch.testing.assert_close(modified_focal(image, target, None, mask, 2.0), plain)
    assert modified_focal(image, target, mask, mask, 2.0) == 0  # a right mask forgives every edge


def test_modified_focal_by_hand() -> None:
    """A vertical step of 0.5 in a 3 x 4 image, the mask wrong by 0.5 everywhere.

    The plain Sobel kernel (1, 2, 1) gives 0.5 * 4 = 2 in the two columns beside the step, 0 elsewhere and in the vertical
    direction: squares of 4 in 6 of 24 values, times 0.5 ** 2, a mean of 0.25. Divided by 8 it would be 64 times less.
    """
    step = torch.tensor([0.0, 0, 0.5, 0.5]).expand(1, 3, 3, 4)
    half, full = torch.full((1, 1, 3, 4), 0.5), torch.ones(1, 1, 3, 4)
    assert modified_focal(step, torch.zeros_like(step), half, full, 2.0).item() == pytest.approx(0.25)
    assert modified_focal(step, torch.zeros_like(step), None, full, 2.0).item() == pytest.approx(1.0)


def test_focal_is_lins(pictures: tuple[torch.Tensor, ...]) -> None:
    _, logits, _, mask = pictures
    p = logits.sigmoid()
    positive, negative = -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(focal_loss(logits, mask, 0.25, 2.0), torch.where(mask > 0, positive, negative).mean())


def test_dice_is_zero_for_equal_masks(pictures: tuple[torch.Tensor, ...]) -> None:
    mask = pictures[3]
    assert dice_loss(mask, mask) < 1e-6
    assert dice_loss(1 - mask, mask) > 0.99
    assert dice_loss(mask * 0, mask * 0) == 0  # no text and none found


def test_every_term_can_be_switched(pictures: tuple[torch.Tensor, ...]) -> None:
    weights = {"mse": 1.0, "mf": 10.0, "seg_mse": 1.0, "focal": 10.0, "dice": 1.0}
    everything = Objective(dataclasses.replace(OFF, **weights))(*pictures)
    assert everything.keys() == {*weights, "total"}
    torch.testing.assert_close(everything["total"], sum(v for k, v in everything.items() if k != "total"))
    for name, weight in weights.items():
        alone = Objective(dataclasses.replace(OFF, **{name: weight}))(*pictures)
        assert alone.keys() == {name, "total"}
        torch.testing.assert_close(alone["total"], everything[name])
    half = Objective(dataclasses.replace(OFF, **weights, seg=0.5))(*pictures)
    torch.testing.assert_close(half["dice"], everything["dice"] / 2)
    torch.testing.assert_close(half["mse"], everything["mse"])


def test_a_pattern_of_the_lr_pixels_is_the_grid() -> None:
    """A pattern of the 4x4 places counts by its variance; a shift of all, or an edge, counts nothing."""
    target = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    pattern = torch.tensor([[0.0, 0.1], [0.1, 0.0]]).repeat(8, 12)
    assert grid_loss(target + pattern, target) == pytest.approx(0.0025, rel=1e-4)
    assert grid_loss(target + 0.1, target) < 1e-12 and grid_loss(target, target) == 0
    edge = torch.zeros(16, 24)
    edge[:, 8:] = 0.3  # whole LR pixels: every place errs alike
    assert grid_loss(target + edge, target) < 1e-12
    terms = Objective(LossConfig(lpips="off", grid=2.0))(target + pattern, None, target, target[:, :1])
    assert terms["grid"] == pytest.approx(0.005, rel=1e-4) and "grid" not in Objective(LossConfig(lpips="off"))(
        target, None, target, target[:, :1]
    )


def test_without_joint_decoders_only_the_image_counts(pictures: tuple[torch.Tensor, ...]) -> None:
    image, _, target, mask = pictures
    terms = Objective(LossConfig(lpips="off"))(image, None, target, mask)
    assert terms.keys() == {"mse", "mf", "total"}


def test_the_defaults_are_the_papers() -> None:
    config = LossConfig()
    assert (config.lpips, config.mf, config.focal, config.dice) == (5.0, 10.0, 10.0, 1.0)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_with_a_random_backbone(net: str, pictures: tuple[torch.Tensor, ...]) -> None:
    image, logits, target, mask = pictures
    image, target = (torch.nn.functional.interpolate(x, (64, 64)).requires_grad_() for x in (image, target))
    logits, mask = (torch.nn.functional.interpolate(x, (64, 64)) for x in (logits, mask))
    objective = Objective(dataclasses.replace(OFF, lpips=5.0, lpips_net=net), random_backbone=True)
    terms = objective(image, logits, target, mask)
    torch.testing.assert_close(terms["lpips"], 5 * objective.lpips(image * 2 - 1, target * 2 - 1).mean())
    terms["total"].backward()
    assert image.grad is not None and image.grad.any()
    assert not any(p.requires_grad for p in objective.parameters())
    assert objective(target, logits, target, mask)["lpips"] < 1e-6


def test_lpips_ranges(pictures: tuple[torch.Tensor, ...]) -> None:
    """`unit` feeds LPIPS clamped images in [0, 1], `signed` the documented [-1, 1]."""
    image, logits, target, mask = (torch.nn.functional.interpolate(x, (64, 64)) for x in pictures)
    image = image * 1.5 - 0.25
    signed, unit = (
        Objective(dataclasses.replace(OFF, lpips=1.0, lpips_range=name), random_backbone=True)
        for name in ("signed", "unit")
    )
    unit.lpips = signed.lpips  # one random network
    expected = signed.lpips(image.clamp(0, 1), target).mean()
    torch.testing.assert_close(unit(image, logits, target, mask)["lpips"], expected)
    torch.testing.assert_close(
        signed(image, logits, target, mask)["lpips"], signed.lpips(image * 2 - 1, target * 2 - 1).mean()
    )


def test_lpips_without_its_backbone_is_an_error(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert not lpips_backbone_file("vgg").exists()
    with pytest.raises(ConfigError, match="lpips: off"):
        make_lpips("vgg")
