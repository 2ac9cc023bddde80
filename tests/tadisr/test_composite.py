"""The text from one image, the rest from another."""

from __future__ import annotations

import pytest
import torch

from tadisr import ConfigError, ImageError
from tadisr.composite import composite_images, edit_mask, shape_mask


def dot(size: int = 33) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2, size // 2] = 1
    return mask


def test_growing_shrinking_and_threshold() -> None:
    assert shape_mask(dot(), grow=3).sum() == 49
    assert torch.equal(shape_mask(shape_mask(dot(), grow=3), grow=-3), dot())
    assert torch.equal(shape_mask(dot() * 0.4, threshold=0.5), torch.zeros_like(dot()))
    assert torch.equal(shape_mask(dot() * 0.6, threshold=0.5), dot())
    assert torch.equal(shape_mask(dot() * 0.6), dot() * 0.6)


def test_feather_keeps_the_weight_and_the_range() -> None:
    soft = shape_mask(dot(), feather=2.0)
    assert soft.sum() == pytest.approx(1, abs=1e-3) and soft.max() < 0.1
    assert torch.allclose(shape_mask(torch.ones(1, 1, 3, 5), feather=40.0), torch.ones(1, 1, 3, 5))
    with pytest.raises(ConfigError, match="feather is -1"):
        shape_mask(dot(), feather=-1)


def test_text_where_the_mask_is_the_rest_elsewhere_at_the_larger_size() -> None:
    text, rest = torch.ones(1, 3, 40, 60), torch.zeros(1, 3, 20, 30)
    mask = torch.zeros(1, 1, 40, 60)
    mask[..., :30] = 1
    result = composite_images(text, rest, mask)
    assert result.shape == (1, 3, 40, 60)
    assert torch.equal(result[..., :30], text[..., :30]) and result[..., 30:].max() == 0
    assert composite_images(rest, text, mask).shape == (1, 3, 40, 60)


def test_batches_alpha_and_empty_masks() -> None:
    text, rest = torch.rand(1, 4, 8, 8), torch.rand(3, 3, 8, 8)
    result = composite_images(text, rest, torch.zeros(1, 1, 8, 8))
    assert result.shape == (3, 4, 8, 8)
    assert torch.equal(result[:, :3], rest) and torch.equal(result[:, 3:], torch.ones(3, 1, 8, 8))


@pytest.mark.parametrize(
    ("text", "rest", "mask", "message"),
    [
        ((2, 3, 8, 8), (3, 3, 8, 8), (1, 1, 8, 8), "2 images of text, 3 others"),
        ((1, 3, 80, 80), (1, 3, 80, 120), (1, 1, 80, 80), "the other image 120x80"),
        ((1, 3, 80, 80), (1, 3, 80, 80), (1, 1, 80, 40), "the mask 40x80"),
    ],
)
def test_what_does_not_go_together_gets_one_sentence(text, rest, mask, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        composite_images(torch.zeros(text), torch.zeros(rest), torch.zeros(mask))


@pytest.mark.parametrize(
    ("operation", "inside", "outside"), [("add", 1.0, 0.3), ("subtract", 0.0, 0.3), ("replace", 1.0, 0.0)]
)
def test_a_painted_mask_edits_another(operation: str, inside: float, outside: float) -> None:
    mask, painted = torch.full((2, 1, 64, 96), 0.3), torch.zeros(1, 1, 16, 24)
    painted[..., 4:12, 4:12] = 1
    edited = edit_mask(mask, painted, operation)
    assert edited.shape == mask.shape
    assert edited[1, 0, 32, 32] == pytest.approx(inside) and edited[1, 0, 4, 90] == pytest.approx(outside)
    assert torch.equal(edit_mask(mask, painted * 0, "add"), mask)
    with pytest.raises(ConfigError, match="operation is 'xor'"):
        edit_mask(mask, painted, "xor")
