"""FTSR's build: every step with real PP-OCR models, faults of every kind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_ftsr import FONTS, SAMPLES, configured, digests, line, strokes, write_config

from tadisr import CheckpointError, ConfigError
from tadisr.images import from_pixels, resize_image, to_pixels
from train.synthesis import config as settings
from train.synthesis.__main__ import main
from train.synthesis.build import build_data_set
from train.synthesis.config import EnhanceConfig
from train.synthesis.engine.journal import Journal, read_records, write_lines
from train.synthesis.engine.step import Step, run_step
from train.synthesis.engine.workers import Here
from train.synthesis.report import page as report
from train.synthesis.steps import enhance, filter

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")
pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")


# ---- what is written ------------------------------------------------------------------------------------------------


def test_the_layout_of_ftsr(made: Path) -> None:
    names = [f"{i:07d}.png" for i in range(1, SAMPLES + 1)]
    for folder, side in {"gt": 128, "sr_bicubic": 128, "mask": 128, "lr": 32}.items():
        assert sorted(p.name for p in (made / folder).iterdir()) == names
        assert all(Image.open(made / folder / n).size == (side, side) for n in names)
    lr, up = (np.asarray(Image.open(made / folder / names[0])) for folder in ("lr", "sr_bicubic"))
    assert np.array_equal(to_pixels(resize_image(from_pixels(lr), (128, 128))), up)
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
            assert f["text"] and filter.ocr.text_ratio(f["text"], f["mask_text"]) >= 0.8 and len(f["box"]) == 4
        assert not outside.any()


def test_broken_images_are_set_aside_and_readable_grounds_dropped(made: Path) -> None:
    rows = [json.loads(row) for row in (made / "quarantine.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all("b_broken" in row["key"] for row in rows)
    assert all("cannot be read as an image" in row["reason"] for row in rows)
    grounds = {r["key"]: r for r in read_records(made / "work/backgrounds/journal.jsonl")}
    page = next(r for key, r in grounds.items() if "a_page" in key)
    assert page["status"] == "dropped" and page["reason"] == "text" and "Harbour" in page["why"]
    assert next(r for key, r in grounds.items() if "c_empty" in key)["status"] == "kept"


def test_lines_are_cut_out_of_images_and_masked_by_the_segmenter(made: Path) -> None:
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
    build_data_set(configured(pictures, out), quiet=True)
    assert digests(out) == digests(made) and (out / "gt/0000004.png").stat().st_mtime_ns == kept


def test_a_build_grows_and_other_settings_are_refused(made: Path, pictures: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    build_data_set(configured(pictures, out, samples=SAMPLES + 2), quiet=True)
    rows = (out / "index.jsonl").read_text().splitlines()
    assert len(rows) == SAMPLES + 2 and len(list((out / "gt").iterdir())) == SAMPLES + 2
    assert (out / "gt/0000006.png").read_bytes() == (made / "gt/0000006.png").read_bytes()
    with pytest.raises(ConfigError, match=r"compose was made with .* seed was 0, now it is 7.*--redo compose"):
        build_data_set(configured(pictures, out, seed=7), quiet=True)
    torch_tools = configured(pictures, out, degrade={"tools": "torch", "batch": 3})
    with pytest.raises(ConfigError, match=r"degrade was made .*tools was \"opencv\""):
        build_data_set(torch_tools, quiet=True)
    build_data_set(torch_tools, again="degrade", quiet=True)
    new, old = (np.asarray(Image.open(p / "lr/0000001.png")).astype(int) for p in (out, made))
    assert not np.array_equal(new, old) and np.abs(new.mean() - old.mean()) < 12
    assert (out / "gt/0000006.png").read_bytes() == (made / "gt/0000006.png").read_bytes()


def test_one_build_at_a_time(made: Path, pictures: Path) -> None:
    from train.run_lock import lock_folder

    with lock_folder(made, "build"), pytest.raises(ConfigError, match="Another build is writing"):
        build_data_set(configured(pictures, made), quiet=True)


def test_nothing_kept_is_said_with_a_report(pictures: Path, tmp_path: Path) -> None:
    config = configured(pictures, tmp_path / "x", filter={"long_edge": 1e6})
    few = {"foregrounds": config.foregrounds[:1], "backgrounds": config.backgrounds[1:]}
    with pytest.raises(ConfigError, match=r"No text crops were kept: .*report.html"):
        build_data_set(dataclasses.replace(config, **few), quiet=True)
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

    def describe_settings(self) -> dict[str, Any]:
        return {}

    def list_chunks(self) -> dict[int, Any]:
        return {index: index for index in range(self.config.samples)}

    def __call__(self, chunk: Any) -> list[dict[str, Any]]:
        return [{"sample": chunk, "text": f"{chunk:8192d}"}]


def test_records_are_not_kept_in_memory(pictures: Path, tmp_path: Path) -> None:
    """2,000 of them, made, found again by a second run, and written to a file in order: 16 MB, a small part at a time."""
    step = Wordy(config=configured(pictures, tmp_path, samples=2000))
    run_step(dataclasses.replace(step, config=configured(pictures, tmp_path / "first", samples=2)), Here(), quiet=True)
    tracemalloc.start()
    for _ in range(2):
        records = run_step(step, Here(), quiet=True)
        write_lines(tmp_path / "all.jsonl", records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "all.jsonl").stat().st_size > 2000 * 8192 and peak < 3e6
    assert [record["sample"] for record in records] == list(range(2000))


# ---- the steps, each alone ------------------------------------------------------------------------------------------


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
    up, up_mask, factor = enhance.enhance_crop(picture, mask, EnhanceConfig(model=str(real_sr), below=100), "cpu")
    assert factor == 4 and up.shape == (4 * height, 4 * width, 3) and up_mask.shape == (4 * height, 4 * width)
    assert np.abs(up_mask.astype(int)[2::4, 2::4] - mask).mean() < 12
    for config in (EnhanceConfig(model=str(real_sr), below=10), EnhanceConfig(model="off")):
        assert enhance.enhance_crop(picture, mask, config, "cpu")[0] is picture
    with pytest.raises(CheckpointError, match="There is no model"):
        enhance.load_model(str(tmp_path / "none.pth"), "cpu")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no model that spandrel knows"):
        enhance.load_model(str(tmp_path / "other.pth"), "cpu")


def test_enhancing_within_a_build(real_sr: Path, made: Path, pictures: Path, tmp_path: Path) -> None:
    out = copied(made, tmp_path)
    config = configured(pictures, out, enhance={"model": str(real_sr), "below": 48})
    build_data_set(config, until="enhance", again="enhance", quiet=True)
    pool = [json.loads(row) for row in (out / "work/enhance/pool.jsonl").read_text().splitlines()]
    for crop in pool:
        left, top, right, bottom = crop["box"]
        factor = 4 if min(right - left, bottom - top) < 48 else 1
        assert crop["enhanced"] == factor and crop["size"] == [factor * (right - left), factor * (bottom - top)]
    assert {crop["enhanced"] for crop in pool} == {1, 4}


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_builds_up_to_a_step_and_refuses_wrong_settings(
    made: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
