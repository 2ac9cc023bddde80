"""The text attention as a map and as colours."""

from __future__ import annotations

import pytest
import torch

from tadisr import ConfigError, ImageError, TADiSR
from tadisr.inference import staged
from tadisr.inference.staged import Attention
from tadisr.visualization import attention_heatmap


def attention() -> Attention:
    """Two layers of two heads on an image of 16 x 24 with padding to 16 x 32, each head one number everywhere."""
    down = torch.tensor([[1.0, 3.0], [5.0, 7.0]])[:, :, None, None].expand(2, 2, 2, 4)
    up = torch.tensor([[10.0], [20.0]])[:, :, None, None].expand(2, 1, 1, 2)
    return Attention(
        torch.zeros(2, 4, 2, 4), None, [down, up], ["down_blocks.1.x", "up_blocks.0.y"], (16, 32), (16, 24)
    )


@pytest.mark.parametrize(
    ("layers", "heads", "expected"),
    [
        ("all", "all", (6.0, 13.0)),
        ("down", "all", (2.0, 6.0)),
        ("up", "0", (10.0, 20.0)),
        ("all", "1", (3.0, 7.0)),
        ("down", "0-1", (2.0, 6.0)),
    ],
)
def test_layers_and_heads_are_chosen(layers: str, heads: str, expected: tuple[float, float]) -> None:
    heat = attention_heatmap.heat_map(attention(), layers=layers, heads=heads, normalize="off")
    assert heat.shape == (2, 1, 16, 24)
    torch.testing.assert_close(heat[:, 0, 0, 0], torch.tensor(expected))


@pytest.mark.parametrize("change", [{"layers": "mid"}, {"heads": "9"}, {"heads": "x"}, {"layers": "left"}])
def test_a_choice_of_nothing_gets_one_sentence(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        attention_heatmap.heat_map(attention(), **change)


def test_normalised_by_image_or_by_batch() -> None:
    response = torch.stack([torch.linspace(0, 1, 8), torch.linspace(0, 4, 8)])[:, None, None]
    of = Attention(torch.zeros(2, 4, 1, 1), None, [response], ["up_blocks.0.y"], (1, 8), (1, 8))
    each, together = (attention_heatmap.heat_map(of, normalize=n) for n in ("picture", "batch"))
    torch.testing.assert_close(each[0], each[1])
    assert together[0].max() == 0.25 and together[1].max() == 1
    flat = Attention(torch.zeros(1, 4, 1, 1), None, [torch.ones(1, 1, 1, 8)], ["up_blocks.0.y"], (1, 8), (1, 8))
    assert torch.equal(attention_heatmap.heat_map(flat), torch.zeros(1, 1, 1, 8))


@pytest.mark.parametrize("name", attention_heatmap.COLOR_MAPS)
def test_colours_rise_with_the_heat_and_lie_over_an_image(name: str) -> None:
    heat = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(1, 1, 8, 64)
    colors = attention_heatmap.colorize_heat(heat, name)
    assert colors.shape == (1, 3, 8, 64) and colors.min() >= 0 and colors.max() <= 1
    assert (colors[..., 0] - colors[..., -1]).abs().sum() > 0.3
    over = attention_heatmap.overlay_heat(heat, torch.zeros(1, 4, 16, 128), name, opacity=0.5)
    assert over.shape == (1, 3, 16, 128)
    assert (over.mean() - colors.mean() / 2).abs() < 0.02
    with pytest.raises(ImageError, match="2 images for 1 heat maps"):
        attention_heatmap.overlay_heat(heat, torch.zeros(2, 3, 8, 8), name)
    with pytest.raises(ConfigError, match="colour map"):
        attention_heatmap.colorize_heat(heat, "rainbow road")


def test_the_networks_own_attention(compact: TADiSR) -> None:
    samples, source = staged.encode(compact, torch.rand(2, 3, 10, 13))
    _, heard = staged.denoise(compact, samples, source)
    for layers in ("all", "down", "mid", "up"):
        heat = attention_heatmap.heat_map(heard, layers=layers)
        assert heat.shape == (2, 1, 40, 52) and heat.amin() == 0 and heat.amax() == 1
