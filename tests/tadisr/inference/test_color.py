"""Colours back to the input's."""

from __future__ import annotations

import pytest
import torch

from tadisr import ConfigError
from tadisr.images import resize_image
from tadisr.inference.color import check_mode, from_lab, measure_correction, smooth_image, to_lab


def corrected(mode: str, result: torch.Tensor, lr: torch.Tensor) -> torch.Tensor:
    """A result (3, H, W) with the colours of its LR image (3, h, w)."""
    rows = result.permute(1, 2, 0).contiguous()
    measure_correction(mode, rows, lr).apply(rows, 0, (rows.shape[0], rows.shape[1]))
    return rows.permute(2, 0, 1)


def test_adain_takes_mean_and_deviation() -> None:
    torch.manual_seed(0)
    lr = torch.rand(3, 20, 30) * 0.3 + 0.3
    plain = resize_image(lr[None], (80, 120))[0]
    fixed = corrected("adain", plain * 0.7 + 0.2, lr)
    torch.testing.assert_close(fixed.mean((1, 2)), plain.mean((1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(fixed.std((1, 2)), plain.std((1, 2)), atol=1e-4, rtol=0)


def test_lab_takes_the_hue_that_channels_of_their_own_cannot() -> None:
    """A result whose a* and b* are turned a little and weaker gets its colours back, lightness included."""
    torch.manual_seed(0)
    lr = torch.rand(3, 20, 30) * 0.3 + 0.3
    plain = resize_image(lr[None], (80, 120))[0].clamp(0, 1)
    lab = to_lab(plain.permute(1, 2, 0).contiguous())
    faded = from_lab(lab * torch.tensor([0.9, 0.5, 0.6]) + torch.tensor([4.0, 6.0, -5.0])).permute(2, 0, 1)
    assert (faded - plain).abs().mean() > 0.02
    assert (corrected("lab", faded, lr) - plain).abs().mean() < 2e-3
    grey = corrected("lab", plain[:1] * 0.5, lr[:1])
    torch.testing.assert_close(grey, corrected("adain", plain[:1] * 0.5, lr[:1]))


@pytest.mark.parametrize("size", [(80, 120), (50, 75), (20, 30)])
def test_wavelet_keeps_details_and_takes_the_coarse_scale(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    lr = torch.nn.functional.interpolate(torch.rand(1, 3, 3, 4), size=(20, 30), mode="bicubic")[0] * 0.4 + 0.3
    plain = resize_image(lr[None], size)[0]
    detail = torch.rand(3, *size) * 0.1 - 0.05
    drift = torch.tensor([0.1, -0.05, 0.02])[:, None, None]
    fixed = corrected("wavelet", plain + detail + drift, lr)
    apart = fixed - plain - (detail - detail.mean((1, 2), keepdim=True))
    assert apart.abs().mean() < 0.01 and (fixed - plain).mean((1, 2)).abs().max() < 2e-3


def test_smoothing_keeps_constants_at_every_size() -> None:
    for size in ((1, 1), (3, 40), (7, 5)):
        torch.testing.assert_close(smooth_image(torch.full((1, 3, *size), 0.4)), torch.full((1, 3, *size), 0.4))


def test_unknown_modes_are_refused_and_flat_images_stay_finite() -> None:
    with pytest.raises(ConfigError, match="off, adain, wavelet, lab"):
        check_mode("hsv")
    for mode in ("adain", "wavelet", "lab"):
        flat = corrected(mode, torch.full((3, 4, 4), 0.9), torch.full((3, 1, 1), 0.1))
        torch.testing.assert_close(flat, torch.full((3, 4, 4), 0.1))
