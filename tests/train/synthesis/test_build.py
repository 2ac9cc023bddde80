"""FTSR's build: every step with real PP-OCR models, faults of every kind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from repository import ROOT
from small_ftsr import FONTS, SAMPLES, configured, digests, line, strokes, write_config

from tadisr import CheckpointError, ConfigError
from tadisr.images import resize
from train.data.sources import Item
from train.synthesis import config as settings
from train.synthesis.__main__ import main
from train.synthesis.build import build
from train.synthesis.config import ComposeConfig, EnhanceConfig, FilterConfig, ForegroundConfig, ReadingConfig
from train.synthesis.engine.journal import Journal, read_records, write_lines
from train.synthesis.engine.step import Step, run
from train.synthesis.engine.workers import Here
from train.synthesis.report import page as report
from train.synthesis.steps import backgrounds, compose, enhance, filter
from train.synthesis.steps.degrade import as_pixels
from train.synthesis.steps.filter import as_image

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")
pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")


# ---- what is written ------------------------------------------------------------------------------------------------


def test_the_layout_of_ftsr(made: Path) -> None:
    names = [f"{i:07d}.png" for i in range(1, SAMPLES + 1)]
    for folder, side in {"gt": 128, "sr_bicubic": 128, "mask": 128, "lr": 32}.items():
        assert sorted(p.name for p in (made / folder).iterdir()) == names
        assert all(Image.open(made / folder / n).size == (side, side) for n in names)
    lr, up = (np.asarray(Image.open(made / folder / names[0])) for folder in ("lr", "sr_bicubic"))
    assert np.array_equal(as_pixels(resize(as_image(lr), (128, 128))), up)
    assert (made / "train.txt").read_text().split() == names[:3]
    assert (made / "test.txt").read_text().split() == names[3:]


def test_the_index_says_where_everything_came_from(made: Path, pictures: Path) -> None:
    rows = [json.loads(row) for row in (made / "index.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"{i:07d}" for i in range(1, SAMPLES + 1)]
    assert {f["source"] for row in rows for f in row["foregrounds"]} <= {"rendered", f"folder:{pictures.name}"}
    assert {row["background"]["source"] for row in rows} <= {"procedural", "grounds"}
    for row in rows:
        assert 1 <= len(row["foregrounds"]) <= 3 and row["degradation"]["preset"] == "ftsr-authors"
        for folder, digest in row["sha256"].items():
            assert hashlib.sha256((made / folder / f"{row['id']}.png").read_bytes()).hexdigest() == digest
        mask = np.asarray(Image.open(made / "mask" / f"{row['id']}.png"))
        outside = mask.copy()
        for f in row["foregrounds"]:
            left, top, width, height = f["place"]
            assert mask[top : top + height, left : left + width].max() > 127
            outside[top : top + height, left : left + width] = 0
            assert f["text"] and filter.ocr.ratio(f["text"], f["mask_text"]) >= 0.8 and len(f["box"]) == 4
        assert not outside.any()


def test_broken_pictures_are_set_aside_and_readable_grounds_dropped(made: Path) -> None:
    rows = [json.loads(row) for row in (made / "quarantine.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all("b_broken" in row["key"] for row in rows)
    assert all("cannot be read as a picture" in row["reason"] for row in rows)
    grounds = {r["key"]: r for r in read_records(made / "work/backgrounds/journal.jsonl")}
    page = next(r for key, r in grounds.items() if "a_page" in key)
    assert page["status"] == "dropped" and page["reason"] == "text" and "Harbour" in page["why"]
    assert next(r for key, r in grounds.items() if "c_empty" in key)["status"] == "kept"


def test_lines_are_cut_out_of_pictures_and_masked_by_the_segmenter(made: Path) -> None:
    masks = read_records(made / "work/masks/journal.jsonl")
    (page,) = [r for r in masks if "a_page" in r["key"]]
    assert page["mask"] and Image.open(made / "work/masks" / page["mask"]).size == (420, 200)
    assert all(r["mask"] is None for r in masks if r["foreground"] == 0)
    crops = [r for r in read_records(made / "work/filter/journal.jsonl") if "a_page" in r["key"]]
    assert [crop["text"] for crop in crops] == ["Harbour", "OPEN24"]
    left, top, right, bottom = crops[0]["box"]
    assert left < 40 and top < 40 and 190 < right < 250 and 70 < bottom < 105


def test_shards_are_what_webdataset_reads(made: Path) -> None:
    assert sorted(p.name for p in (made / "shards").iterdir()) == ["test-000000.tar", "train-000000.tar"]
    with tarfile.open(made / "shards/test-000000.tar") as tar:
        members = tar.getmembers()
        assert [m.name for m in members[:4]] == ["0000004.gt.png", "0000004.lr.png", "0000004.mask.png", "0000004.json"]
        assert len(members) == 12 and {m.mtime for m in members} == {0} and {m.uid for m in members} == {0}
        file = tar.extractfile("0000004.gt.png")
        assert file is not None and file.read() == (made / "gt/0000004.png").read_bytes()


def test_the_card_and_the_report(made: Path) -> None:
    card = (made / "README.md").read_text()
    assert "degradation `ftsr-authors`: the order and ranges of the authors' synthesis code" in card
    assert "6 triplets" in card and "| rendered | rendered |" in card and "test samples have a background" in card
    assert settings.from_dict({"out": "x", **_yaml(made / "config.yaml")}).samples == SAMPLES
    page = (made / "report.html").read_text()
    for words in (
        "6 samples, 3 train and 3 test",
        "there is text in it",
        "b_broken",
        "Language of the pasted text",
        "Harbour",
    ):
        assert words in page
    assert page.count("data:image/jpeg;base64,") >= 3 * SAMPLES + 1 and "<svg" in page
    with pytest.raises(ConfigError, match="no build's folder"):
        report.write_report(made / "gt")


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_languages() -> None:
    texts = {
        "你好abc": "Latin",
        "你好吗ab": "Chinese",
        "あの人": "Japanese",
        "123": "digits",
        "Жд1": "Cyrillic",
        "&%": "signs",
    }
    assert {text: report.language(text) for text in texts} == texts


# ---- faults ---------------------------------------------------------------------------------------------------------


def copied(made: Path, folder: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, folder / "ftsr"))


def test_what_is_lost_is_made_again_and_nothing_else(made: Path, pictures: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    for gone in ("gt/0000002.png", "lr/0000005.png", "shards/test-000000.tar"):
        (out / gone).unlink()
    journal = out / "work/compose/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])  # a line cut short, as by a power failure
    (out / "gt/.0000003.png.abc.part").write_bytes(b"half")
    kept = (out / "gt/0000004.png").stat().st_mtime_ns
    build(configured(pictures, out), quiet=True)
    assert digests(out) == digests(made) and (out / "gt/0000004.png").stat().st_mtime_ns == kept


def test_a_build_grows_and_other_settings_are_refused(made: Path, pictures: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    build(configured(pictures, out, samples=SAMPLES + 2), quiet=True)
    rows = (out / "index.jsonl").read_text().splitlines()
    assert len(rows) == SAMPLES + 2 and len(list((out / "gt").iterdir())) == SAMPLES + 2
    assert (out / "gt/0000006.png").read_bytes() == (made / "gt/0000006.png").read_bytes()
    with pytest.raises(ConfigError, match=r"compose was made with .* seed was 0, now it is 7.*--redo compose"):
        build(configured(pictures, out, seed=7), quiet=True)
    torch_tools = configured(pictures, out, degrade={"tools": "torch", "batch": 3})
    with pytest.raises(ConfigError, match=r"degrade was made .*tools was \"opencv\""):
        build(torch_tools, quiet=True)
    build(torch_tools, again="degrade", quiet=True)
    new, old = (np.asarray(Image.open(p / "lr/0000001.png")).astype(int) for p in (out, made))
    assert not np.array_equal(new, old) and np.abs(new.mean() - old.mean()) < 12
    assert (out / "gt/0000006.png").read_bytes() == (made / "gt/0000006.png").read_bytes()


def test_one_build_at_a_time(made: Path, pictures: Path) -> None:
    from train.run_lock import lock_folder

    with lock_folder(made, "build"), pytest.raises(ConfigError, match="Another build is writing"):
        build(configured(pictures, made), quiet=True)


def test_nothing_kept_is_said_with_a_report(pictures: Path, tmp_path: Path) -> None:
    config = configured(pictures, tmp_path / "x", filter={"long_edge": 1e6})
    few = {"foregrounds": config.foregrounds[:1], "backgrounds": config.backgrounds[1:]}
    with pytest.raises(ConfigError, match=r"No text crops were kept: .*report.html"):
        build(dataclasses.replace(config, **few), quiet=True)
    assert "characters are too small" in (tmp_path / "x/report.html").read_text()


def test_a_journal_drops_what_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "step" / "journal.jsonl"
    journal = Journal(path, {"a": 1})
    for chunk in range(3):
        journal.add(chunk, [{"text": f"第{chunk}"}])
    journal.close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"records", b"rec0rds") + lines[2] + lines[3][:-4])
    assert read_records(path) == [{"text": "第1"}]
    journal = Journal(path, {"a": 1})
    assert list(journal.places) == [1] and list(journal.records([1])) == [{"text": "第1"}]
    journal.add(0, [{"text": "0"}, {"text": "00"}])
    assert [row["text"] for row in journal.records([0, 1])] == ["0", "00", "第1"]
    journal.close()
    assert sorted(Journal(path, {"a": 1}).places) == [0, 1]
    with pytest.raises(ConfigError, match="a was 1, now it is 2"):
        Journal(path, {"a": 2})


class Wordy(Step):
    """A step of which nothing is left but its records, 8 KB each."""

    name = "wordy"

    def settings(self) -> dict[str, Any]:
        return {}

    def chunks(self) -> dict[int, Any]:
        return {index: index for index in range(self.config.samples)}

    def __call__(self, chunk: Any) -> list[dict[str, Any]]:
        return [{"sample": chunk, "text": f"{chunk:8192d}"}]


def test_records_are_not_kept_in_memory(pictures: Path, tmp_path: Path) -> None:
    """2,000 of them, made, found again by a second run, and written to a file in order: 16 MB, a small part at a time."""
    step = Wordy(config=configured(pictures, tmp_path, samples=2000))
    run(dataclasses.replace(step, config=configured(pictures, tmp_path / "first", samples=2)), Here(), quiet=True)
    tracemalloc.start()
    for _ in range(2):
        records = run(step, Here(), quiet=True)
        write_lines(tmp_path / "all.jsonl", records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "all.jsonl").stat().st_size > 2000 * 8192 and peak < 3e6
    assert [record["sample"] for record in records] == list(range(2000))


def test_a_pool_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "enhance" / "pool.jsonl"
    write_lines(path, [{"id": "一"}, {"id": "two"}])
    pool = compose.read_pool(path)
    assert [pool[index]["id"] for index in (1, 0)] == ["two", "一"] and len(pool) == 2
    write_lines(path, [])
    os.utime(path, (1, 1))
    with pytest.raises(ConfigError, match="enhance kept nothing"):
        compose.read_pool(path)


# ---- the steps, each alone ------------------------------------------------------------------------------------------

LINE = ForegroundConfig(source={"kind": "folder"}, crops="line")


def test_masks_drawn_by_hand_are_not_judged_by_reading() -> None:
    """check false: a crop that reads otherwise than its mask is kept, one with an empty mask is not."""
    engine = filter.reader(ReadingConfig(engine="rapidocr"))
    drawn = dataclasses.replace(LINE, check=False)
    for mask, kept in ((strokes("Tower"), "kept"), (strokes("Tower") * 0, "dropped")):
        picture = np.asarray(Image.fromarray(line("Harbour")).resize(mask.shape[::-1]))
        (crop,) = filter.examine(Item("key", picture, mask, None), mask, drawn, FilterConfig(), engine)
        assert crop["status"] == kept and crop["reason"] == (None if kept == "kept" else "empty")
        (crop,) = filter.examine(Item("key", picture, mask, None), mask, LINE, FilterConfig(), engine)
        assert crop["status"] == "dropped"


def judged(picture: np.ndarray, mask: np.ndarray, label: str | None = None, **changes: Any) -> dict[str, Any]:
    engine = filter.reader(ReadingConfig(engine="rapidocr"))
    (crop,) = filter.examine(Item("key", picture, mask, label), mask, LINE, FilterConfig(**changes), engine)
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
    assert filter.normal("ＡＢＣ 12 ，") == "ABC12,"


def test_backgrounds_with_text_are_found() -> None:
    engine = filter.reader(ReadingConfig(engine="rapidocr"))
    ground = np.full((256, 384, 3), 180, np.uint8)
    assert backgrounds.readable(ground, engine, 0.5) == []
    text = line("Station")
    ground[100 : 100 + text.shape[0], 60 : 60 + text.shape[1]] = text
    assert backgrounds.readable(ground, engine, 0.5) == ["Station"]


@pytest.fixture(scope="module")
def real_sr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ESRGAN of the published layout, tiny: a file that spandrel loads."""
    architecture = pytest.importorskip("spandrel.architectures.ESRGAN")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sr") / "tiny_x4.pth"
    torch.save({"params_ema": architecture.ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict()}, path)
    return path


def test_small_crops_are_brought_up_with_their_masks(real_sr: Path, tmp_path: Path) -> None:
    picture, mask = line("Harbour", 20), strokes("Harbour", 20)
    height, width = mask.shape
    up, up_mask, factor = enhance.enhance(picture, mask, EnhanceConfig(model=str(real_sr), below=100), "cpu")
    assert factor == 4 and up.shape == (4 * height, 4 * width, 3) and up_mask.shape == (4 * height, 4 * width)
    assert np.abs(up_mask.astype(int)[2::4, 2::4] - mask).mean() < 12
    for config in (EnhanceConfig(model=str(real_sr), below=10), EnhanceConfig(model="off")):
        assert enhance.enhance(picture, mask, config, "cpu")[0] is picture
    with pytest.raises(CheckpointError, match="There is no model"):
        enhance.load_model(str(tmp_path / "none.pth"), "cpu")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no model that spandrel knows"):
        enhance.load_model(str(tmp_path / "other.pth"), "cpu")


def test_enhancing_within_a_build(real_sr: Path, made: Path, pictures: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    config = configured(pictures, out, enhance={"model": str(real_sr), "below": 48})
    build(config, until="enhance", again="enhance", quiet=True)
    pool = [json.loads(row) for row in (out / "work/enhance/pool.jsonl").read_text().splitlines()]
    for crop in pool:
        left, top, right, bottom = crop["box"]
        factor = 4 if min(right - left, bottom - top) < 48 else 1
        assert crop["enhanced"] == factor and crop["size"] == [factor * (right - left), factor * (bottom - top)]
    assert {crop["enhanced"] for crop in pool} == {1, 4}


def test_places_are_within_the_canvas_apart_and_of_the_promised_sizes() -> None:
    c, counted, scales = ComposeConfig(), 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        sizes = [(int(w), int(h)) for w, h in zip(rng.integers(20, 800, 5), rng.integers(20, 300, 5), strict=True)]
        places = compose.arrange(sizes, c, rng)
        assert places[0] is not None
        there = [p for p in places if p is not None]
        counted += len(there)
        for size, place in zip(sizes, places, strict=True):
            if place is not None:
                left, top, width, height = place
                assert 0 <= left <= 1024 - width and 0 <= top <= 1024 - height and max(width, height) >= 153
                assert width / height == pytest.approx(size[0] / size[1], rel=0.6 / min(width, height) + 0.01)
        assert not any(compose.overlap(a, b) for i, a in enumerate(there) for b in there[:i])
        scales.append(max(there[0][2:]) / 1024)
    assert counted > 200 and 0.45 < np.mean(scales) < 0.7 and min(scales) < 0.25 and max(scales) > 0.9


def test_a_crop_shrinks_until_there_is_room_or_is_left_out() -> None:
    c = ComposeConfig(scale=(0.15, 1.0), tries=100)
    tall = compose.find_place((400, 1024), [(0, 0, 500, 1024)], c, np.random.default_rng(0))
    assert tall is not None and tall[0] >= 500
    assert compose.find_place((600, 1024), [(0, 0, 500, 1024)], c, np.random.default_rng(0)) is None
    full = compose.arrange([(100, 100)] * 2, ComposeConfig(scale=(1.0, 1.0)), np.random.default_rng(0))
    assert full == [(0, 0, 1024, 1024), None]
    small = compose.arrange([(50, 10)], ComposeConfig(magnify=4.0), np.random.default_rng(1))[0]
    assert small is not None and 153 <= small[2] <= 200


@pytest.mark.parametrize("edges", ["paste", "feather", "poisson"])
def test_pasting(edges: Any) -> None:
    canvas, mask = np.full((256, 256, 3), 60, np.uint8), np.zeros((256, 256), np.uint8)
    crop, crop_mask = line("Harbour"), strokes("Harbour")
    place = (20, 100, crop.shape[1], crop.shape[0])
    done = compose.lay(canvas.copy(), mask, crop, crop_mask, place, ComposeConfig(canvas=256, edges=edges))
    window = np.s_[100 : 100 + crop.shape[0], 20 : 20 + crop.shape[1]]
    assert np.array_equal(mask[window], crop_mask) and mask.sum() == crop_mask.sum()
    outside = np.ones((256, 256), bool)
    outside[window] = False
    assert np.abs(done[outside].astype(int) - 60).max() <= (0 if edges != "poisson" else 2)
    inner = np.s_[106 : 94 + crop.shape[0], 26 : 14 + crop.shape[1]]
    if edges != "poisson":  # which takes on the ground's colours
        assert np.array_equal(done[inner], crop[6:-6, 6:-6])
        assert (done[100, 20] == crop[0, 0]).all() == (edges == "paste")
    assert (compose.contrast(done, mask, place) or 0) > (0.5 if edges != "poisson" else 0.1)


def test_grounds_are_cut_at_random_and_all_are_used() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (300, 500, 3), np.uint8)
    canvas, (left, top, width, height) = compose.cut_ground(picture, 128, np.random.default_rng(1))
    assert (width, height) == (128, 128) and np.array_equal(canvas, picture[top : top + 128, left : left + 128])
    canvas, window = compose.cut_ground(picture, 400, np.random.default_rng(1))
    assert canvas.shape == (400, 400, 3) and window[2:] == [300, 300] and window[0] + 300 <= 500
    order = [compose.turn(7, 3, index) for index in range(14)]
    assert sorted(order[:7]) == sorted(order[7:]) == list(range(7)) and order[:7] != order[7:]


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command(made: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, pictures)
    assert main(["build", str(config), "--out", str(tmp_path / "x"), "samples=2", "--until", "masks", "workers=0"]) == 0
    assert read_records(tmp_path / "x/work/masks/journal.jsonl") == read_records(made / "work/masks/journal.jsonl")
    assert main(["report", str(made)]) == 0 and "report.html" in capsys.readouterr().out
    for wrong, message in {
        "samples=0": "expected at least 1",
        "compose.canvas=100": "multiple of 16",
        "degrade.preset=heavy": "expected one of 'ftsr-authors', 'ftsr', 'real-esrgan'",
        "filter.ratio=1": "unknown field 'ratio'",
    }.items():
        with pytest.raises(SystemExit, match=message):
            main(["build", str(config), wrong])


@pytest.mark.parametrize("name", ["ftsr", "ftsr-smoke"])
def test_the_configs_are_the_papers(name: str) -> None:
    config = settings.read(ROOT / "train/configs" / f"{name}.yaml")
    assert config.compose == ComposeConfig(canvas=1024, count=(1, 5), scale=(0.15, 1.0), tries=100, shrink=0.9)
    assert config.degrade.preset == "ftsr-authors" and config.write.train == 0.9
    if name == "ftsr":
        from train.synthesis.steps.write import border_of

        pool = {f.source["kind"]: (f.source.get("split"), f.crops, f.check) for f in config.foregrounds}
        assert pool == {
            "ctr": (None, "line", True),
            "bts": ("TRAIN+VAL", "picture", False),
            "textseg": ("train+val+test", "picture", False),
        }

        assert (config.samples, border_of(config)) == (50_000, 45_000)
