"""Tiles: the same as the whole for a local model, weights that sum to one, memory that does not grow."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tadisr import ConfigError
from tadisr.inference.tiling import (
    BLENDS,
    Tiling,
    cover_side,
    list_starts,
    make_profiles,
    place_seam,
    run_tiled,
    side_weights,
)


def local(tile: Tensor, _windows: object) -> tuple[Tensor, Tensor]:
    """A stand-in that looks two pixels around."""
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(tile, (2, 2, 2, 2), mode="replicate"), 5, 1)
    return (tile + blurred) / 2, blurred[:, :1]


def pointwise(tile: Tensor, _windows: object = None) -> tuple[Tensor, Tensor]:
    return torch.sin(tile * 3).abs(), tile[:, :1] ** 2


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 5), (50, 77), (129, 64)])
@pytest.mark.parametrize(("tile", "overlap", "batch"), [(64, 32, 1), (96, 16, 3), (64, 0, 2), (128, 64, 5)])
def test_tiled_equals_whole(size: tuple[int, int], tile: int, overlap: int, batch: int) -> None:
    torch.manual_seed(0)
    lr = torch.rand(2, 3, *size)
    whole = run_tiled(pointwise, lr, tiling=Tiling(tile=4096, overlap=0))
    tiled = run_tiled(pointwise, lr, tiling=Tiling(tile=tile, overlap=overlap, batch=batch))
    for one, other in zip(whole, tiled, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_tiled_equals_whole_for_a_model_that_looks_around() -> None:
    """With an overlap that covers its reach only the weights' foot, two pixels, differs; the blend hides it."""
    torch.manual_seed(0)
    lr = torch.nn.functional.interpolate(torch.rand(1, 3, 20, 24), scale_factor=6, mode="bicubic").clamp(0, 1)
    whole = run_tiled(local, lr, tiling=Tiling(tile=4096, overlap=0))
    tiled = run_tiled(local, lr, tiling=Tiling(tile=256, overlap=128))
    for one, other in zip(whole, tiled, strict=True):
        assert (one - other).abs().max() < 1e-3


@pytest.mark.parametrize(("tile", "overlap"), [(16, 8), (16, 0), (17, 5), (20, 10)])
def test_weights_sum_to_one(tile: int, overlap: int) -> None:
    for size in range(1, 150):
        total = torch.zeros(size)
        for begin, weight in zip(list_starts(size, tile, overlap), make_profiles(size, tile, overlap), strict=True):
            total[begin : begin + len(weight)] += weight
            assert weight.min() >= 0
        torch.testing.assert_close(total, torch.ones(size), atol=1e-6, rtol=0)


@pytest.mark.parametrize("blend", list(BLENDS))
@pytest.mark.parametrize("text", [False, True])
def test_every_blend_sums_to_one_and_keeps_its_seam(blend: str, text: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for size in range(17, 200, 13):
        crossed = torch.rand(size, generator=generator) if text else None
        weights = make_profiles(size, 16, 8, blend=blend, text=crossed)
        total = torch.zeros(size)
        for begin, weight in zip(list_starts(size, 16, 8), weights, strict=True):
            total[begin : begin + 16] += weight
        torch.testing.assert_close(total, torch.ones(size), atol=1e-6, rtol=0)
        if blend == "none":
            assert all(set(weight.tolist()) <= {0.0, 1.0} for weight in weights)


def test_seams_go_where_no_text_is() -> None:
    """Lines of text with gaps between them: no seam touches a line; without knowing them, seams do."""
    text = torch.zeros(1, 400)
    for top in range(10, 400, 70):
        text[:, top : top + 45] = 1

    def crossed(weights: list[Tensor]) -> float:
        total = 0.0
        for begin, weight in zip(list_starts(400, 160, 80), weights, strict=True):
            shared = (weight > 0) & (weight < 1)
            total += text[0, begin : begin + 160][shared].sum().item()
        return total

    assert crossed(make_profiles(400, 160, 80, text=text[0])) == 0
    assert crossed(make_profiles(400, 160, 80)) > 0


def test_an_image_without_text_has_its_seams_in_the_middle() -> None:
    first, last = place_seam((100, 180), 80, torch.zeros(300))
    assert abs((first + last) / 2 - 140) <= 1 and last - first == 20
    assert place_seam((100, 180), 80, None) == (100, 180)


def test_progress_counts_tiles_and_cancels() -> None:
    seen: list[tuple[int, int]] = []
    tiling = Tiling(tile=64, overlap=32, batch=2, margin=0)
    run_tiled(pointwise, torch.rand(3, 3, 24, 16), tiling=tiling, progress=lambda d, t: seen.append((d, t)))
    assert seen == [(2, 6), (4, 6), (6, 6)]

    def cancel(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    ran: list[int] = []

    def counted(tile: Tensor, windows: object) -> tuple[Tensor, Tensor]:
        ran.append(len(tile))
        return pointwise(tile)

    with pytest.raises(KeyboardInterrupt):
        run_tiled(counted, torch.rand(1, 3, 40, 40), tiling=tiling, progress=cancel)
    assert ran == [2]


def test_images_of_a_batch_share_tiles_and_keep_their_order() -> None:
    torch.manual_seed(0)
    lr = torch.rand(5, 3, 10, 12)
    sizes: list[int] = []

    def counted(tile: Tensor, windows: object) -> tuple[Tensor, Tensor]:
        sizes.append(len(tile))
        return pointwise(tile)

    together, _ = run_tiled(counted, lr, tiling=Tiling(batch=4))
    assert sizes == [4, 1]
    for i in range(5):
        alone, _ = run_tiled(pointwise, lr[i : i + 1], tiling=Tiling())
        assert torch.equal(alone[0], together[i])


def test_only_a_batch_of_tiles_is_ever_upscaled() -> None:
    """However large the image, what the model is given stays the same."""
    largest: list[int] = []

    def watched(tile: Tensor, windows: object) -> tuple[Tensor, Tensor]:
        largest.append(tile.numel())
        return pointwise(tile)

    for side in (40, 400):
        largest.clear()
        run_tiled(watched, torch.rand(1, 3, side, side), tiling=Tiling(tile=128, overlap=32, batch=2))
        assert max(largest) == 2 * 3 * 128 * 128


@pytest.mark.parametrize(
    "wrong", [{"tile": 8}, {"overlap": -1}, {"tile": 256, "overlap": 200}, {"batch": 0}, {"blend": "lab"}]
)
def test_settings_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Tiling(**wrong)


@pytest.mark.parametrize("size", [240, 320, 333, 500, 1000])
def test_the_margin_takes_no_further_tiles_and_the_weights_sum_to_one(size: int) -> None:
    tiling = Tiling()
    spans = cover_side(size, tiling)
    assert len(spans) == len(list_starts(size, *tiling.on_lr))
    tile, overlap = tiling.on_lr
    padded = size + 2 * tiling.margin
    length = spans[0][1] - spans[0][0]
    assert all(end - begin == length for begin, end in spans) and length <= tile
    assert length * len(spans) - overlap * (len(spans) - 1) < padded + 8 * len(spans)  # none shares more than it is to
    assert spans[0][0] == -tiling.margin and spans[-1][1] == size + tiling.margin
    assert all(after[0] <= before[1] - tiling.on_lr[1] // 2 for before, after in itertools.pairwise(spans))
    total = torch.zeros(size * 4)
    for (begin, _), weight in zip(spans, side_weights(size, tiling), strict=True):
        first = max(0, begin) * 4
        total[first : first + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones(size * 4))
