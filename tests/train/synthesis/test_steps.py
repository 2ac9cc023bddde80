"""The steps of a build by themselves: crops are judged, placed and pasted."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_ftsr import FONTS, line, strokes

from tadisr import ConfigError
from train.data.sources import Item
from train.synthesis.config import ComposeConfig, FilterConfig, ForegroundConfig, ReadingConfig
from train.synthesis.engine.journal import write_lines
from train.synthesis.report import page as report
from train.synthesis.steps import backgrounds, compose, filter

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")
pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")

LINE = ForegroundConfig(source={"kind": "folder"}, crops="line")


def test_texts_are_counted_by_script() -> None:
    texts = {
        "你好abc": "Latin",
        "你好吗ab": "Chinese",
        "あの人": "Japanese",
        "123": "digits",
        "Жд1": "Cyrillic",
        "&%": "signs",
    }
    assert {text: report.detect_language(text) for text in texts} == texts


def test_a_pool_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "enhance" / "pool.jsonl"
    write_lines(path, [{"id": "一"}, {"id": "two"}])
    pool = compose.read_pool(path)
    assert [pool[index]["id"] for index in (1, 0)] == ["two", "一"] and len(pool) == 2
    write_lines(path, [])
    os.utime(path, (1, 1))
    with pytest.raises(ConfigError, match="enhance kept nothing"):
        compose.read_pool(path)


def test_masks_drawn_by_hand_are_not_judged_by_reading() -> None:
    """check false: a crop that reads otherwise than its mask is kept, one with an empty mask is not."""
    engine = filter.open_reader(ReadingConfig(engine="rapidocr"))
    drawn = dataclasses.replace(LINE, check=False)
    for mask, kept in ((strokes("Tower"), "kept"), (strokes("Tower") * 0, "dropped")):
        picture = np.asarray(Image.fromarray(line("Harbour")).resize(mask.shape[::-1]))
        (crop,) = filter.score_crops(Item("key", picture, mask, None), mask, drawn, FilterConfig(), engine)
        assert crop["status"] == kept and crop["reason"] == (None if kept == "kept" else "empty")
        (crop,) = filter.score_crops(Item("key", picture, mask, None), mask, LINE, FilterConfig(), engine)
        assert crop["status"] == "dropped"


def judged(picture: np.ndarray, mask: np.ndarray, label: str | None = None, **changes: Any) -> dict[str, Any]:
    engine = filter.open_reader(ReadingConfig(engine="rapidocr"))
    (crop,) = filter.score_crops(Item("key", picture, mask, label), mask, LINE, FilterConfig(**changes), engine)
    return crop


def test_a_crop_is_kept_where_it_and_its_mask_and_its_label_agree() -> None:
    picture, mask = line("Harbour"), strokes("Harbour")
    good = judged(picture, mask, "Harbour")
    assert good["status"] == "kept" and good["text"] == good["mask_text"] == "Harbour" and good["label_similarity"] == 1
    wrong = np.zeros_like(mask)
    other = strokes("TAXI")
    wrong[: other.shape[0], : other.shape[1]] = other[: wrong.shape[0], : wrong.shape[1]]
    assert judged(picture, wrong)["reason"] == "mask"
    assert judged(picture, np.zeros_like(mask))["reason"] == "empty"
    assert judged(picture, mask, "Airport")["reason"] == "label"
    small = judged(picture, mask, long_edge=1000.0)
    assert small["reason"] == "small" and "pixels a character of 1000" in small["why"]
    assert judged(np.full((40, 160, 3), 128, np.uint8), mask[:40, :160])["reason"] == "unread"


def test_spaces_and_full_width_forms_do_not_count() -> None:
    assert filter.normalize_text("ＡＢＣ 12 ，") == "ABC12,"


def test_backgrounds_with_text_are_found() -> None:
    engine = filter.open_reader(ReadingConfig(engine="rapidocr"))
    ground = np.full((256, 384, 3), 180, np.uint8)
    assert backgrounds.read_confident(ground, engine, 0.5) == []
    text = line("Station")
    ground[100 : 100 + text.shape[0], 60 : 60 + text.shape[1]] = text
    assert backgrounds.read_confident(ground, engine, 0.5) == ["Station"]


def test_places_are_within_the_canvas_apart_and_of_the_promised_sizes() -> None:
    c, counted, scales = ComposeConfig(), 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sizes = [(int(w), int(h)) for w, h in zip(rng.integers(20, 800, 5), rng.integers(20, 300, 5), strict=True)]
        places = compose.place_crops(sizes, c, rng)
        assert places[0] is not None
        there = [p for p in places if p is not None]
        counted += len(there)
        for size, place in zip(sizes, places, strict=True):
            if place is not None:
                left, top, width, height = place
                assert 0 <= left <= 1024 - width and 0 <= top <= 1024 - height and max(width, height) >= 153
                assert width / height == pytest.approx(size[0] / size[1], rel=0.6 / min(width, height) + 0.01)
        assert not any(compose.boxes_overlap(a, b) for i, a in enumerate(there) for b in there[:i])
        scales.append(max(there[0][2:]) / 1024)
    assert counted > 200 and 0.45 < np.mean(scales) < 0.7 and min(scales) < 0.25 and max(scales) > 0.9


def test_a_crop_shrinks_until_there_is_room_or_is_left_out() -> None:
    c = ComposeConfig(scale=(0.15, 1.0), tries=100)
    tall = compose.find_place((400, 1024), [(0, 0, 500, 1024)], c, np.random.default_rng(0))
    assert tall is not None and tall[0] >= 500
    assert compose.find_place((600, 1024), [(0, 0, 500, 1024)], c, np.random.default_rng(0)) is None
    full = compose.place_crops([(100, 100)] * 2, ComposeConfig(scale=(1.0, 1.0)), np.random.default_rng(0))
    assert full == [(0, 0, 1024, 1024), None]
    small = compose.place_crops([(50, 10)], ComposeConfig(magnify=4.0), np.random.default_rng(1))[0]
    assert small is not None and 153 <= small[2] <= 200


@pytest.mark.parametrize("edges", ["paste", "feather", "poisson"])
def test_pasting_changes_only_the_crop_and_its_mask(edges: Any) -> None:
    canvas, mask = np.full((256, 256, 3), 60, np.uint8), np.zeros((256, 256), np.uint8)
    crop, crop_mask = line("Harbour"), strokes("Harbour")
    place = (20, 100, crop.shape[1], crop.shape[0])
    done = compose.paste_crop(canvas.copy(), mask, crop, crop_mask, place, ComposeConfig(canvas=256, edges=edges))
    window = np.s_[100 : 100 + crop.shape[0], 20 : 20 + crop.shape[1]]
    assert np.array_equal(mask[window], crop_mask) and mask.sum() == crop_mask.sum()
    outside = np.ones((256, 256), bool)
    outside[window] = False
    assert np.abs(done[outside].astype(int) - 60).max() <= (0 if edges != "poisson" else 2)
    inner = np.s_[106 : 94 + crop.shape[0], 26 : 14 + crop.shape[1]]
    if edges != "poisson":  # which takes on the ground's colours
        assert np.array_equal(done[inner], crop[6:-6, 6:-6])
        assert (done[100, 20] == crop[0, 0]).all() == (edges == "paste")
    assert (compose.measure_contrast(done, mask, place) or 0) > (0.5 if edges != "poisson" else 0.1)


def test_grounds_are_cut_at_random_and_all_are_used() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (300, 500, 3), np.uint8)
    canvas, (left, top, width, height) = compose.cut_ground(picture, 128, np.random.default_rng(1))
    assert (width, height) == (128, 128) and np.array_equal(canvas, picture[top : top + 128, left : left + 128])
    canvas, window = compose.cut_ground(picture, 400, np.random.default_rng(1))
    assert canvas.shape == (400, 400, 3) and window[2:] == [300, 300] and window[0] + 300 <= 500
    order = [compose.pick_background(7, 3, index) for index in range(14)]
    assert sorted(order[:7]) == sorted(order[7:]) == list(range(7)) and order[:7] != order[7:]
