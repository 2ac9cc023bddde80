"""Public benchmarks, written here in the form their owners publish them, come out as pairs with labels and levels."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image

from train.benchmarks import fit_quad, main
from train.data.pairs import Label, open_pairs

POLYGON = [[10, 20], [30, 20], [50, 20], [50, 40], [30, 40], [10, 40]]
CORNERS = ((10.0, 20.0), (50.0, 20.0), (50.0, 40.0), (10.0, 40.0))


def picture(seed: int, side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def test_four_corners_are_fitted_clockwise() -> None:
    assert fit_quad([[1, 2], [5, 6]]) == [[1, 2], [5, 2], [5, 6], [1, 6]]
    assert np.allclose(fit_quad(POLYGON), CORNERS)
    assert fit_quad([[5, 6], [1, 6], [1, 2], [5, 2]]) == [[1, 2], [5, 2], [5, 6], [1, 6]]


@pytest.mark.parametrize("form", ["list", "table"])
def test_real_text_in_folders(form: str, tmp_path: Path) -> None:
    """HQ/, LQ/ and either form of the annotation."""
    source = tmp_path / "Real-Text"
    for folder, side in (("HQ", 64), ("LQ", 16)):
        (source / folder).mkdir(parents=True)
        for i in range(2):
            picture(i, side).save(source / folder / f"{i}.jpg")
    if form == "list":
        data: Any = [
            {"id": "0", "hq_img": "HQ/0.jpg", "text": ["STOP"], "bbox": [[[10, 20], [50, 40]]], "poly": [POLYGON]}
        ]
    else:
        data = {"0": {"0": {"text_instances": [{"text": "STOP", "bbox": [10, 20, 50, 40], "polygon": POLYGON}]}}}
    (source / "real_benchmark_dataset.json").write_text(json.dumps(data))
    assert main(["real-text", str(source), str(tmp_path / "out")]) == 0
    pairs = open_pairs(tmp_path / "out")
    assert [pair.key for pair in pairs] == ["0", "1"] and pairs[0].hr.shape == (64, 64, 3) and not pairs[0].is_upscaled
    assert pairs[0].label == (Label("STOP", CORNERS),) and pairs[1].label == ()


def test_sa_text_levels_add_up(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="Parquet files need pyarrow: pip install pyarrow")
    pyarrow = pytest.importorskip("pyarrow")

    rows = [
        {
            "id": f"sa_{i}", "hq_img": {"bytes": png(picture(i, 64)), "path": None}, "text": ["ON"], "poly": [POLYGON],
            **{f"lq_img_lv{level}": {"bytes": png(picture(10 * level + i, 16)), "path": None} for level in (1, 2, 3)},
        }
        for i in range(2)
    ]  # fmt: skip
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data" / "test-00000-of-00001.parquet")
    for level in ("1", "3"):
        assert main(["sa-text", str(tmp_path / "data"), str(tmp_path / "out"), "--level", level]) == 0
    pairs = open_pairs(tmp_path / "out")
    assert [pair.key for pair in pairs] == ["level 1/sa_0", "level 1/sa_1", "level 3/sa_0", "level 3/sa_1"]
    assert (pairs[3].lr == np.array(picture(31, 16))).all() and pairs[3].label == (Label("ON", CORNERS),)
    words = json.loads((tmp_path / "out" / "degradation.json").read_text())
    assert set(words.values()) == {"level 1", "level 3"} and len(words) == 4
    with pytest.raises(SystemExit, match="give --level 1, 2 or 3"):
        main(["sa-text", str(tmp_path / "data"), str(tmp_path / "out")])


def test_textzoom_as_whole_images(tmp_path: Path) -> None:
    """LR of 16 x 64 is kept, HR of 32 x 128 becomes 64 x 256, the word's box is all of it."""
    source = tmp_path / "easy"
    with lmdb.open(str(source), map_size=1 << 20) as store, store.begin(write=True) as transaction:
        transaction.put(b"num-samples", b"1")
        for side, size in ((b"hr", (128, 32)), (b"lr", (64, 16))):
            transaction.put(b"image_%s-000000001" % side, png(picture(0, 128).resize(size)))
        transaction.put(b"label-000000001", b"Caf\xc3\xa9")
    assert main(["textzoom", str(source), str(tmp_path / "out"), "--level", "easy"]) == 0
    (pair,) = open_pairs(tmp_path / "out")
    assert pair.hr.shape == (64, 256, 3) and pair.lr.shape == (16, 64, 3)
    assert pair.label == (Label("Café", ((0, 0), (256, 0), (256, 64), (0, 64))),)


def test_folders_of_any_names(tmp_path: Path) -> None:
    """As ReasonText may lie: two difficulties, a call each, texts without boxes."""
    for level in ("easy", "hard"):
        for folder, side in (("gt", 64), ("input", 16)):
            (tmp_path / level / folder).mkdir(parents=True)
            picture(0, side).save(tmp_path / level / folder / "a.png")
        (tmp_path / level / "text.json").write_text(json.dumps({"a.png": ["one", {"text": "two", "box": POLYGON}]}))
        options = ["--hr", "gt", "--lr", "input", "--labels", "text.json", "--level", level]
        assert main(["folders", str(tmp_path / level), str(tmp_path / "out"), *options]) == 0
    pairs = open_pairs(tmp_path / "out")
    assert [pair.key for pair in pairs] == ["easy/a", "hard/a"]
    assert pairs[0].label == (Label("one"), Label("two", CORNERS))


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(SystemExit, match=r"is no real-text: expected Parquet files, or HQ/, LQ/ and one of"):
        main(["real-text", str(tmp_path), out])
    for folder, side in (("HR", 64), ("LR", 24)):
        (tmp_path / folder).mkdir()
        picture(0, side).save(tmp_path / folder / "a.png")
    with pytest.raises(SystemExit, match=r"a: HR is 64x64, LR 24x24; expected LR of exactly a quarter"):
        main(["folders", str(tmp_path), out])
    picture(0, 24).save(tmp_path / "LR" / "b.png")
    with pytest.raises(SystemExit, match=r"b is in one of .*HR and .*LR only"):
        main(["folders", str(tmp_path), out])
