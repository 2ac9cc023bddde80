"""Colours grown into transparent parts, as a whole and where they are read."""

from __future__ import annotations

import pytest
import torch

from tadisr.images.alpha import GrownColors, grow_colors, split_layers


@pytest.mark.parametrize("size", [(37, 53), (600, 40), (513, 7), (1, 9), (2, 2)])
@pytest.mark.parametrize("levels", [False, True])
def test_windows_are_those_of_the_whole(size: tuple[int, int], levels: bool) -> None:
    torch.manual_seed(0)
    colors, alpha = torch.rand(3, *size), (torch.rand(1, *size) * 2 - 1).clamp(0, 1)
    alpha[:, size[0] // 3 :] = 0
    if levels:
        colors, alpha = ((layer * 255).round().to(torch.uint8) for layer in (colors, alpha))
    whole = grow_colors(*((layer[None] / 255 if levels else layer[None]) for layer in (colors, alpha)))[0]
    grown = GrownColors(colors, alpha)
    assert grown.shape == whole.shape and len(grown) == 3
    for top in range(0, size[0], 11):
        for left in range(0, size[1], 3):
            window = grown[..., top : top + 7, left : left + 5]
            torch.testing.assert_close(window, whole[:, top : top + 7, left : left + 5], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("level", "dark"), [(0.1, True), (0.9, False)])
def test_layers_know_whether_what_shows_is_dark(level: float, dark: bool) -> None:
    image = torch.full((4, 300, 20), 1 - level)
    image[:, 100:290] = level
    image[3] = 0
    image[3, 100:290] = 1
    assert split_layers(image).dark == dark
    image[3] = 1
    layers = split_layers(image)
    assert isinstance(layers.colors, torch.Tensor) and layers.alpha is not None and not layers.dark
