"""What training draws from pairs on disk: aligned crops by index, LR as on disk or made anew, mixtures, shares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from test_rendered import FONTS

from tadisr import ConfigError
from tadisr.errors import ImageError
from train import settings
from train.data.triplets import Mixture, PairCrops, Share, Triplets, held_out_samples, training_samples
from train.settings import DataConfig


def pairs(
    folder: Path, *, hr: str = "hr", lr: str = "lr", mask: str | None = "mask", count: int = 4, same: bool = False
) -> Path:
    """Ramps: a pixel tells where it stands, in HR, in LR and in the mask."""
    for name in (hr, lr, *([mask] if mask else [])):
        (folder / name).mkdir(parents=True)
    y, x = np.mgrid[0:64, 0:96]
    for i in range(count):
        picture = np.stack([x * 2, y * 3, np.full_like(x, i * 20)], -1).astype(np.uint8)
        Image.fromarray(picture).save(folder / hr / f"{i}.png")
        small = cv2.resize(picture, (24, 16), interpolation=cv2.INTER_AREA)
        Image.fromarray(picture if same else small).save(folder / lr / f"{i}.png")
        if mask:
            Image.fromarray(((x // 8 + y // 8) % 2 * 255).astype(np.uint8)).save(folder / mask / f"{i}.png")
    return folder


def data(**fields: Any) -> DataConfig:
    return settings.build(DataConfig, {"crop": 32, **fields}, "data")


def place(hr: torch.Tensor) -> tuple[int, int]:
    """Where a crop of the ramps begins: row, column."""
    return round(float(hr[1, 0, 0]) * 255 / 3), round(float(hr[0, 0, 0]) * 255 / 2)


@pytest.mark.parametrize("same", [False, True], ids=["quarter", "upscaled"])
def test_crops_stay_aligned(same: bool, tmp_path: Path) -> None:
    stream = training_samples(data(kind="pairs", folder=str(pairs(tmp_path / "p", same=same))), seed=1)
    places = set()
    for index in range(12):
        sample = stream.sample(index)
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


def test_a_sample_is_its_index_and_every_pass_has_every_picture(tmp_path: Path) -> None:
    config = data(kind="pairs", folder=str(pairs(tmp_path / "p")))
    one, other = (training_samples(config, seed=1) for _ in range(2))
    order = [round(float(one.sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in range(12)]
    assert order == [round(float(other.sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in reversed(range(12))][::-1]
    assert all(sorted(order[i : i + 4]) == [0, 1, 2, 3] for i in (0, 4, 8))
    assert order != [
        round(float(training_samples(config, seed=2).sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in range(12)
    ]
    loader = torch.utils.data.DataLoader(Triplets(one), batch_size=2, sampler=range(4), num_workers=1)
    assert torch.equal(next(iter(loader))["hr"][1], one.sample(1)["hr"])


def test_lr_can_be_made_on_the_fly(tmp_path: Path) -> None:
    folder = str(pairs(tmp_path / "p"))
    made = training_samples(data(kind="pairs", folder=folder, degradation={"real-esrgan": 1.0}), seed=1)
    plain = training_samples(data(kind="pairs", folder=folder), seed=1)
    assert torch.equal(made.sample(3)["hr"], plain.sample(3)["hr"])
    assert (made.sample(3)["upscaled"] - plain.sample(3)["upscaled"]).abs().max() > 0.02
    assert torch.equal(made.sample(3)["upscaled"], made.sample(3)["upscaled"])


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
    mixed = training_samples(data(kind="mixture", sources=sources), seed=1)
    assert isinstance(mixed, Mixture)
    assert [len(s) for s in mixed.sources if isinstance(s, PairCrops)] == [
        18,
        3,
    ]  # nine tenths of a small FTSR, the list
    assert mixed.shares.tolist() == pytest.approx([18 / 21, 3 / 21])  # as if all lay in one folder
    sources["real"]["weight"] = 54
    sources["text"] = {"kind": "rendered", "weight": 18}
    mixed = training_samples(data(kind="mixture", sources=sources, fonts=list(map(str, FONTS))), seed=1)
    assert isinstance(mixed, Mixture) and mixed.shares.tolist() == pytest.approx([0.2, 0.6, 0.2])
    assert mixed.sample(5)["hr"].shape == (3, 32, 32)
    held_out, count = held_out_samples(data(kind="mixture", sources=sources, fonts=list(map(str, FONTS))), seed=1)
    assert count == 3  # one of each by turns: Real-CE has one to test
    seen = {round(float(held_out.sample(i)["hr"][2, 0, 0]) * 255 / 20) for i in (1,)}
    assert seen == {3} and place(held_out.sample(1)["hr"]) == (16, 32)  # the middle


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
        training_samples(data(**table), seed=0)


def test_what_is_held_out(tmp_path: Path) -> None:
    whole, other = pairs(tmp_path / "p"), pairs(tmp_path / "other", count=2)
    with pytest.raises(ConfigError, match=r"has no test part.*test.txt.*panel: 0"):
        held_out_samples(data(kind="pairs", folder=str(whole)), seed=0)
    assert held_out_samples(data(kind="pairs", folder=str(whole), held_out=str(other)), seed=0)[1] == 2
    (whole / "train.txt").write_text("0\n1\n2\n")
    (whole / "test.txt").write_text("3\n")
    assert held_out_samples(data(kind="pairs", folder=str(whole)), seed=0)[1] == 1
    trained = training_samples(data(kind="pairs", folder=str(whole)), seed=0)
    assert isinstance(trained, PairCrops) and len(trained) == 3


def test_pictures_without_masks_or_too_small_are_refused(tmp_path: Path) -> None:
    bare = data(kind="pairs", folder=str(pairs(tmp_path / "bare", mask=None)))
    with pytest.raises(ConfigError, match=r"has no text mask \(4 of 4\).*joint: false"):
        training_samples(bare, seed=0)
    assert not training_samples(bare, seed=0, needs_mask=False).sample(0)["mask"].any()
    large = training_samples(data(kind="pairs", folder=str(tmp_path / "bare"), crop=80), seed=0, needs_mask=False)
    with pytest.raises(ImageError, match="is 96x64, smaller than the crop of 80"):
        large.sample(0)


def test_shares_of_processes_make_the_larger_batch() -> None:
    alone = list(Share(start=2, stop=4, batch=4))
    first, second = (list(Share(start=2, stop=4, batch=2, rank=rank, world=2)) for rank in range(2))
    assert alone == [8, 9, 10, 11, 12, 13, 14, 15]
    assert first == [8, 9, 12, 13] and second == [10, 11, 14, 15] and len(Share(start=2, stop=4, batch=2)) == 4
