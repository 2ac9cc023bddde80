"""Colours back to the input's."""

from __future__ import annotations

import pytest
import torch

from tadisr import ConfigError
from tadisr.inference.color import adain, match, smooth, wavelet


def test_adain_takes_mean_and_deviation() -> None:
    torch.manual_seed(0)
    image, reference = torch.rand(2, 3, 20, 30), torch.rand(2, 3, 20, 30) * 0.3 + 0.2
    fixed = adain(image, reference)
    torch.testing.assert_close(fixed.mean((2, 3)), reference.mean((2, 3)))
    torch.testing.assert_close(fixed.std((2, 3)), reference.std((2, 3)))


def test_wavelet_keeps_details_and_takes_the_coarse_scale() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 96)
    reference = image + torch.tensor([0.1, -0.05, 0.02])[:, None, None]
    torch.testing.assert_close(wavelet(image, reference), reference, atol=1e-5, rtol=0)
    fixed = wavelet(image, torch.zeros_like(image))
    torch.testing.assert_close(fixed, image - smooth(image))


def test_smoothing_keeps_constants_at_every_size() -> None:
    for size in ((1, 1), (3, 40), (7, 5)):
        torch.testing.assert_close(smooth(torch.full((1, 3, *size), 0.4)), torch.full((1, 3, *size), 0.4))


def test_off_and_unknown() -> None:
    image = torch.rand(1, 3, 4, 4)
    assert match(image, image * 0, "off") is image
    with pytest.raises(ConfigError, match="off, adain, wavelet"):
        match(image, image, "lab")
    for mode in ("adain", "wavelet"):
        flat = match(torch.full((1, 3, 4, 4), 0.9), torch.full((1, 3, 4, 4), 0.1), mode)
        torch.testing.assert_close(flat, torch.full((1, 3, 4, 4), 0.1))
