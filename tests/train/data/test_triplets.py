"""What training draws from pairs on disk: aligned crops by index, LR as on disk or made anew, mixtures, shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fonts import FONTS
from pair_folders import pairs, write_sets

from tadisr import ConfigError
from train import config as settings
from train.config import DataConfig
from train.data.triplets import Mixture, PairCrops, Share, Triplets, open_held_out_samples, open_training_samples


def data(**fields: Any) -> DataConfig:
    return settings.build_dataclass(DataConfig, {"crop": 32, **fields}, "data")


def place(hr: torch.Tensor) -> tuple[int, int]:
    """Where a crop of the ramps begins: row, column."""
    return round(float(hr[1, 0, 0]) * 255 / 3), round(float(hr[0, 0, 0]) * 255 / 2)


@pytest.mark.parametrize("same", [False, True], ids=["quarter", "upscaled"])
def test_crops_stay_aligned(same: bool, tmp_path: Path) -> None:
    stream = open_training_samples(data(kind="pairs", folder=str(pairs(tmp_path / "p", same=same))), seed=1)
    places = set()
    for index in range(12):
        sample = stream.draw_sample(index)
        top, left = place(sample["hr"])
        places.add((top, left))
        assert top % 4 == left % 4 == 0
        assert {name: tuple(t.shape) for name, t in sample.items()} == {
            "upscaled": (3, 32, 32), "hr": (3, 32, 32), "mask": (1, 32, 32)
        }  # fmt: skip
        y, x = np.mgrid[top : top + 32, left : left + 32]
        assert torch.equal(sample["mask"][0], torch.from_numpy((x // 8 + y // 8) % 2).float())
        inner = np.s_[:, 6:-6, 6:-6]
        assert (sample["upscaled"][inner] - sample["hr"][inner]).abs().max() < (1e-6 if same else 0.01)
    assert len(places) > 8


def test_a_sample_is_its_index_and_every_pass_has_every_image(tmp_path: Path) -> None:
    config = data(kind="pairs", folder=str(pairs(tmp_path / "p")))
    one, other = (open_training_samples(config, seed=1) for _ in range(2))
    order = [round(float(one.draw_sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in range(12)]
    assert order == [round(float(other.draw_sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in reversed(range(12))][::-1]
    assert all(sorted(order[i : i + 4]) == [0, 1, 2, 3] for i in (0, 4, 8))
    assert order != [
        round(float(open_training_samples(config, seed=2).draw_sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in range(12)
    ]
    loader = torch.utils.data.DataLoader(Triplets(one), batch_size=2, sampler=range(4), num_workers=1)
    assert torch.equal(next(iter(loader))["hr"][1], one.draw_sample(1)["hr"])


def test_lr_can_be_made_on_the_fly(tmp_path: Path) -> None:
    folder = str(pairs(tmp_path / "p"))
    made = open_training_samples(data(kind="pairs", folder=folder, degradation={"real-esrgan": 1.0}), seed=1)
    plain = open_training_samples(data(kind="pairs", folder=folder), seed=1)
    assert torch.equal(made.draw_sample(3)["hr"], plain.draw_sample(3)["hr"])
    assert (made.draw_sample(3)["upscaled"] - plain.draw_sample(3)["upscaled"]).abs().max() > 0.02
    assert torch.equal(made.draw_sample(3)["upscaled"], made.draw_sample(3)["upscaled"])


@pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")
def test_a_mixture_draws_by_weight(tmp_path: Path) -> None:
    ftsr = pairs(tmp_path / "ftsr", hr="gt", lr="sr_bicubic", same=True, count=20)
    real = pairs(
        tmp_path / "real", hr="52mm_aligned_1024", lr="13mm_aligned_1024", mask="mask-52mm-bts-1024-v2", same=True
    )
    (real / "aligned_list_train.txt").write_text("0.png\n1.png\n2.png\n")
    (real / "aligned_list_eval.txt").write_text("3.png\n")
    sources: dict[str, Any] = {
        "ftsr": {"kind": "ftsr", "folder": str(ftsr)},
        "real": {"kind": "realce", "folder": str(real)},
    }
    mixed = open_training_samples(data(kind="mixture", sources=sources), seed=1)
    assert isinstance(mixed, Mixture)
    assert [len(s) for s in mixed.sources if isinstance(s, PairCrops)] == [
        18,
        3,
    ]  # nine tenths of a small FTSR, the list
    assert mixed.shares.tolist() == pytest.approx([18 / 21, 3 / 21])  # as if all lay in one folder
    sources["real"]["weight"] = 54
    sources["text"] = {"kind": "rendered", "weight": 18}
    mixed = open_training_samples(data(kind="mixture", sources=sources, fonts=list(map(str, FONTS))), seed=1)
    assert isinstance(mixed, Mixture) and mixed.shares.tolist() == pytest.approx([0.2, 0.6, 0.2])
    assert mixed.draw_sample(5)["hr"].shape == (3, 32, 32)
    held_out, count = open_held_out_samples(data(kind="mixture", sources=sources, fonts=list(map(str, FONTS))), seed=1)
    assert count == 3  # one of each by turns: Real-CE has one to test
    seen = {round(float(held_out.draw_sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in (1,)}
    assert seen == {3} and place(held_out.draw_sample(1)["hr"]) == (16, 32)  # the middle


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "ftsr"}, "needs its folder: data.folder=DIR"),
        ({"kind": "ftsr", "folder": "PAIRS"}, "has the layout of plain, expected that of FTSR"),
        ({"kind": "mixture"}, "sources names none"),
        ({"kind": "pairs", "folder": "PAIRS", "sources": {"a": {}}}, "is for data.kind: mixture"),
        ({"kind": "pairs", "folder": "PAIRS", "crop": 30}, "a multiple of 4"),
        ({"kind": "mixture", "sources": {"a": {"folder": "PAIRS", "weight": -1}, "b": {"folder": "PAIRS"}}}, "may be negative"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = str(pairs(tmp_path / "p"))
    table = json.loads(json.dumps(fields).replace("PAIRS", folder))
    with pytest.raises(ConfigError, match=message):
        open_training_samples(data(**table), seed=0)


def test_what_is_held_out(tmp_path: Path) -> None:
    whole, other = pairs(tmp_path / "p"), pairs(tmp_path / "other", count=2)
    with pytest.raises(ConfigError, match=r"has no test part.*test.txt.*panel: 0"):
        open_held_out_samples(data(kind="pairs", folder=str(whole)), seed=0)
    assert open_held_out_samples(data(kind="pairs", folder=str(whole), held_out=str(other)), seed=0)[1] == 2
    (whole / "train.txt").write_text("0\n1\n2\n")
    (whole / "test.txt").write_text("3\n")
    assert open_held_out_samples(data(kind="pairs", folder=str(whole)), seed=0)[1] == 1
    trained = open_training_samples(data(kind="pairs", folder=str(whole)), seed=0)
    assert isinstance(trained, PairCrops) and len(trained) == 3


def test_images_without_masks_are_refused(tmp_path: Path) -> None:
    bare = data(kind="pairs", folder=str(pairs(tmp_path / "bare", mask=None)))
    with pytest.raises(ConfigError, match=r"has no text mask \(4 of 4\).*joint: false"):
        open_training_samples(bare, seed=0)
    assert not open_training_samples(bare, seed=0, needs_mask=False).draw_sample(0)["mask"].any()


@pytest.mark.parametrize("same", [False, True], ids=["quarter", "upscaled"])
def test_images_smaller_than_the_crop(same: bool, tmp_path: Path) -> None:
    """64 rows, 96 columns under a crop of 80: padded by repeating the border, or enlarged to 80 rows."""
    folder = str(pairs(tmp_path / "p", same=same))
    padded = open_training_samples(data(kind="pairs", folder=folder, crop=80), seed=0).draw_sample(0)
    assert padded["hr"].shape == padded["upscaled"].shape == (3, 80, 80) and padded["mask"].shape == (1, 80, 80)
    assert (padded["hr"][1, :8] == 0).all() and (padded["hr"][1, -8:] == padded["hr"][1, -9]).all()  # rows 0 and 63
    assert not padded["mask"][:, :8].any() and padded["mask"][:, 8:-8].any()
    large = open_training_samples(data(kind="pairs", folder=folder, crop=80, smaller="enlarge"), seed=0).draw_sample(0)
    assert (large["hr"][1].diff(dim=0) * 255 / 3).mean() == pytest.approx(63 / 79, abs=0.02)  # 64 rows become 80
    assert large["mask"][:, :8].any()
    for sample in (padded, large):
        inner = np.s_[:, 20:-20, 20:-20]
        assert (sample["upscaled"][inner] - sample["hr"][inner]).abs().max() < 0.02


def test_whole_and_zoomed_images(tmp_path: Path) -> None:
    """whole: the longest side at the crop, sides in multiples of 32; zoom: some samples enlarged, validation never."""
    folder = pairs(tmp_path / "p", same=True)
    (folder / "train.txt").write_text("0\n1\n2\n")
    (folder / "test.txt").write_text("3\n")
    fields = {"kind": "pairs", "folder": str(folder), "crop": 96, "zoom_share": 0.5}
    whole = open_training_samples(data(**fields, view="whole"), seed=0).draw_sample(0)
    assert whole["hr"].shape == (3, 96, 96) and not whole["mask"][:, :16].any() and not whole["mask"][:, -16:].any()
    assert place(whole["hr"]) == (0, 0) and whole["hr"][1, -1, 0] * 255 == 63 * 3  # all of its 64 rows
    small = open_training_samples(data(**fields | {"crop": 48}, view="whole"), seed=0).draw_sample(0)
    assert (small["hr"][1, 24].diff().abs() < 1e-6).all() and small["hr"][0, 24, -1] * 255 > 180  # 96 columns in 32
    zoomed = open_training_samples(data(**fields, view="zoom"), seed=0)
    steps = [
        float(zoomed.draw_sample(i)["hr"][0, 48].diff().mean()) * 255 / 2 for i in range(24)
    ]  # source columns per pixel
    enlarged = [step for step in steps if step < 0.9]
    assert 4 < len(enlarged) < 20 and all(1 / 6.5 < step < 0.52 for step in enlarged)
    held_out, _ = open_held_out_samples(data(**fields, view="zoom"), seed=0)
    assert place(held_out.draw_sample(0)["hr"]) == (0, 0)
    with pytest.raises(ConfigError, match=r"zoom is 0.5, 6.0 and"):
        open_training_samples(data(**fields, zoom=[0.5, 6]), seed=0)


def test_a_source_has_its_own_view_and_degradation(tmp_path: Path) -> None:
    """One source whole, the other cropped; LR can be made of a whole image too."""
    sources = {
        "a": {"folder": str(pairs(tmp_path / "a")), "weight": 1, "view": "whole", "degradation": {"ftsr": 1.0}},
        "b": {"folder": str(pairs(tmp_path / "b")), "weight": 1},
    }
    mixed = open_training_samples(data(kind="mixture", sources=sources), seed=0)
    assert isinstance(mixed, Mixture)
    whole, crop = (source for source in mixed.sources if isinstance(source, PairCrops))
    assert (whole.viewer.view, crop.viewer.view) == ("whole", "crop")
    sample = whole.draw_sample(0)
    assert sample["upscaled"].shape == (3, 32, 32) and sample["hr"][0].max() * 255 > 180


def test_a_source_of_weight_zero_is_not_opened(tmp_path: Path) -> None:
    """Neither for training nor for validation or the panel: its folder need not exist."""
    folder = pairs(tmp_path / "p")
    (folder / "train.txt").write_text("0\n1\n")
    (folder / "test.txt").write_text("2\n3\n")
    sources: dict[str, Any] = {
        "text": {"folder": str(folder)},
        "realce": {"kind": "realce", "folder": str(tmp_path / "missing"), "weight": 0.0},
    }
    config = data(kind="mixture", sources=sources)
    assert open_training_samples(config, seed=0).draw_sample(0)["hr"].shape == (3, 32, 32)
    held_out, count = open_held_out_samples(config, seed=0)
    assert held_out.names == ("text",) and count == 2
    with pytest.raises(ConfigError, match="names realce, which is not among the sources that train: text"):
        open_held_out_samples(config, seed=0, names=("realce",))
    sources["text"]["weight"] = 0
    with pytest.raises(ConfigError, match="Every source"):
        open_training_samples(data(kind="mixture", sources=sources), seed=0)


@pytest.mark.parametrize("name", ["kolors-ftsr", "kolors-realce", "ablation-full"])
def test_shipped_configs_take_real_ce_at_their_crop(name: str, tmp_path: Path) -> None:
    """FTSR of 1024 x 1024 and Real-CE pairs of 1016 x 756 at the crop of 768."""
    ftsr, real = write_sets(tmp_path)
    config = settings.read_config(
        Path(settings.__file__).parent / "configs" / f"{name}.yaml",
        [f"data.sources.ftsr.folder={ftsr}", f"data.sources.realce.folder={real}", "data.small_text=1"],
    )
    stream = open_training_samples(config.data, seed=0)
    held_out, count = open_held_out_samples(config.data, seed=0, names=config.validate.sources)
    assert held_out.names == (("ftsr",) if name == "ablation-full" else ("ftsr", "realce"))
    assert count == len(held_out.names)  # a tenth of ten
    for sample in [*map(stream.draw_sample, range(4)), *map(held_out.draw_sample, range(len(held_out.names)))]:
        shapes = {key: tuple(tensor.shape) for key, tensor in sample.items()}
        assert shapes == {"upscaled": (3, 768, 768), "hr": (3, 768, 768), "mask": (1, 768, 768)}


def test_validated_sources_are_named(tmp_path: Path) -> None:
    sources = {name: {"folder": str(pairs(tmp_path / name)), "held_out": str(tmp_path / name)} for name in "ab"}
    config = data(kind="mixture", sources=sources)
    both, count = open_held_out_samples(config, seed=0)
    assert count == 8 and [both.source(i) for i in range(4)] == ["a", "b", "a", "b"]
    one, count = open_held_out_samples(config, seed=0, names=("b",))
    assert count == 4 and one.names == ("b",)


def test_small_text_is_drawn_more_often(tmp_path: Path) -> None:
    """Pair 0 has a line of 8 LR pixels, the others of 24: weight 3 makes it half of the samples, weight 0 none."""
    folder = pairs(tmp_path / "p")
    box = lambda height: [[0, 0], [90, 0], [90, height], [0, height]]  # noqa: E731
    lines = {str(i): [{"text": "a", "box": box(32 if i == 0 else 96)}] for i in range(4)}
    (folder / "labels.json").write_text(json.dumps(lines))

    def share(weight: float) -> float:
        stream = open_training_samples(data(kind="pairs", folder=str(folder), small_text=weight), seed=0)
        assert isinstance(stream, PairCrops)
        return sum(stream.pair(i).key == "0" for i in range(400)) / 400

    assert share(3) == pytest.approx(0.5, abs=0.07) and share(0) == 0 and share(1) == 0.25
    (folder / "labels.json").unlink()
    with pytest.raises(ConfigError, match="to know how high the text is"):
        open_training_samples(data(kind="pairs", folder=str(folder), small_text=2), seed=0)


def test_shares_of_processes_make_the_larger_batch() -> None:
    alone = list(Share(start=2, stop=4, batch=4))
    first, second = (list(Share(start=2, stop=4, batch=2, rank=rank, world=2)) for rank in range(2))
    assert alone == [8, 9, 10, 11, 12, 13, 14, 15]
    assert first == [8, 9, 12, 13] and second == [10, 11, 14, 15] and len(Share(start=2, stop=4, batch=2)) == 4
