"""A pool of pages: drawn once, gone on with, cut into crops that depend on seed and index alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tadisr.errors import ConfigError, ImageError
from train.data import pool
from train.data.guides import draw_guide
from train.data.text_rendering.strings import Lexicon
from train.data.triplets import Triplets


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fonts = tmp_path_factory.mktemp("fonts")
    found = next(Path("/usr/share/fonts").rglob("DejaVuSans.ttf"), None)
    if found is None:
        pytest.skip("needs DejaVuSans.ttf (fonts-dejavu-core)")
    shutil.copy(found, fonts)
    folder = tmp_path_factory.mktemp("pool")
    assert pool.main(["render", str(folder), "--pages", "3", "--fonts", str(fonts), "--seed", "5"]) == 0
    return folder


def test_a_deleted_page_is_drawn_again_as_it_was(pages: Path, tmp_path: Path) -> None:
    fonts = tmp_path / "fonts"
    fonts.mkdir()
    shutil.copy(next(Path("/usr/share/fonts").rglob("DejaVuSans.ttf")), fonts)
    first = (pages / "0000001.png").read_bytes()
    (pages / "0000001.png").unlink()
    kept = (pages / "0000002.png").stat().st_mtime_ns
    pool.main(["render", str(pages), "--pages", "3", "--fonts", str(fonts), "--seed", "5"])
    assert (pages / "0000001.png").read_bytes() == first
    assert (pages / "0000002.png").stat().st_mtime_ns == kept


def test_crops_depend_on_seed_and_index_alone(pages: Path) -> None:
    def opened(seed: int) -> pool.PoolCrops:
        return pool.PoolCrops(pages, crop=64, seed=seed, degradation={"light": 1.0})

    first, again, other = opened(1).draw_sample(7), opened(1).draw_sample(7), opened(2).draw_sample(7)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hr"], other["hr"])
    assert first["upscaled"].shape == first["hr"].shape == (3, 64, 64) and first["mask"].shape == (1, 64, 64)
    assert first["known"].item() == 1


def test_pages_without_a_mask_are_cut_from_photographs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (600, 700, 3), np.uint8)
    Image.fromarray(noise).save(source / "noise.png")
    Image.new("RGB", (600, 600), "white").save(source / "empty.png")
    (source / "broken.jpg").write_bytes(b"no image")
    assert pool.main(["cut", str(tmp_path / "pool"), str(source), "--pages", "2"]) == 0
    sample = pool.PoolCrops(tmp_path / "pool", crop=64, seed=0, degradation={"bicubic": 1.0}).draw_sample(0)
    assert sample["known"].item() == 0 and not sample["mask"].any()


def test_an_empty_pool_and_a_damaged_page_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.data\.pool"):
        pool.PoolCrops(tmp_path, crop=64, seed=0, degradation={"light": 1.0})
    (tmp_path / "0000000.png").write_bytes(b"damaged")
    with pytest.raises(ImageError, match="0000000"):
        pool.PoolCrops(tmp_path, crop=64, seed=0, degradation={"light": 1.0}).draw_sample(0)


def test_a_third_of_the_samples_with_text_carry_a_guide(pages: Path) -> None:
    samples = pool.PoolCrops(pages, crop=64, seed=1, degradation={"light": 1.0})
    triplets = Triplets(samples, guided=0.33, seed=1)
    drawn = [bool(triplets[index]["guide"].any()) for index in range(60)]
    with_text = [bool(triplets[index]["mask"].any()) for index in range(60)]
    assert 5 < sum(drawn) < sum(with_text)
    assert not any(Triplets(samples)[index]["guide"].any() for index in range(5))


def test_a_drawn_guide_is_near_the_mask_and_imperfect() -> None:
    mask = np.zeros((128, 128), np.float32)
    mask[40:90, 60:64] = mask[62:66, 30:100] = 1
    rng = np.random.default_rng(3)
    guides = [draw_guide(mask, rng) for _ in range(200)]
    overlap = [float((guide * mask).sum() / mask.sum()) for guide in guides]
    assert np.median(overlap) > 0.4 and min(overlap) < 0.2
    assert all(guide.shape == mask.shape and guide.min() >= 0 and guide.max() <= 1 for guide in guides)
    assert not any(np.array_equal(guide, mask) for guide in guides)


def test_a_lexicon_takes_words_and_chinese_lines_from_text(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("hôtel don't x1 hôtel 老街书店今日营业, 的 end", "utf-8")
    lexicon = Lexicon.read((tmp_path / "words.txt",))
    assert {"hôtel", "don't", "end"} <= set(lexicon.latin) and lexicon.latin.count("hôtel") == 1
    assert lexicon.chinese == ("老街书店今日营业",)
    with pytest.raises(ConfigError, match="missing"):
        Lexicon.read((tmp_path / "missing.txt",))
