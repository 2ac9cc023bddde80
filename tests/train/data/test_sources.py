"""Sources: every data set in its owners' layout, written here file by file, read back, broken in every way."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_ftsr import FONTS
from source_files import mask, picture, png, write

from tadisr.errors import TADiSRError
from train.data.sources import KINDS, LICENCES, SourceError, open_source
from train.data.sources.files import select_strokes
from train.synthesis.__main__ import main

lmdb = pytest.importorskip("lmdb")


# ---- one test a layout ----------------------------------------------------------------------------------------------


def test_a_folder_with_masks_and_labels(tmp_path: Path) -> None:
    for i, name in enumerate(("b/two.png", "a.png", "c.png")):
        write(tmp_path / name, picture(i))
    write(tmp_path / "masks" / "b" / "two.png", mask(0, 128, 255))
    (tmp_path / "a.txt").write_text("OPEN 开\n", encoding="utf-8")
    write(tmp_path / ".hidden.png", picture(9))
    source = open_source("folder", tmp_path, masks="masks")
    assert [source.key(i) for i in range(len(source))] == ["a.png", "b/two.png", "c.png"]
    assert source[0].label == "OPEN 开" and source[0].mask is None and source[2].label is None
    two = source[1]
    assert np.array_equal(two.image, picture(0)) and two.mask is not None and two.mask[0, :3].tolist() == [0, 128, 255]
    assert source.name == f"folder:{tmp_path.name}" and source.kind == "folder" and source.licence


def test_a_folder_with_a_table_of_labels(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(0))
    write(tmp_path / "b.jpg", picture(1))
    (tmp_path / "labels.json").write_text(json.dumps({"a": "one", "b.jpg": "two"}))
    source = open_source("folder", tmp_path, labels="labels.json", name="mine")
    assert [source[i].label for i in range(2)] == ["one", "two"] and source.name == "mine"


def test_lsdir_lists_hr_images_only(tmp_path: Path) -> None:
    for name in ("0001000/0000001.png", "0002000/0001001.png", "0001000/0000002.png", "0001000/0000001x4.png"):
        write(tmp_path / "HR" / "train" / name, picture(len(name)))
    for path in (tmp_path, tmp_path / "HR" / "train"):
        source = open_source("lsdir", path)
        keys = [source.key(i) for i in range(len(source))]
        assert keys == ["0001000/0000001.png", "0001000/0000002.png", "0002000/0001001.png"]
    with pytest.raises(SourceError, match="numbered subfolders"):
        open_source("lsdir", tmp_path / "HR" / "train" / "0001000")


def test_textseg_as_published(tmp_path: Path) -> None:
    for i, name in enumerate(("a00001", "a00002", "a00003")):
        write(tmp_path / "image" / f"{name}.jpg", picture(i))
        write(tmp_path / "semantic_label" / f"{name}_maskfg.png", mask(0, 100, 200, 255))
    note = {"01": {"text": "Morning", "bbox": [0] * 8}, "00": {"text": "Good", "bbox": [0] * 8}}
    (tmp_path / "annotation").mkdir()
    (tmp_path / "annotation" / "a00003_anno.json").write_text(json.dumps(note))
    (tmp_path / "split.json").write_text(json.dumps({"train": ["a00003", "a00001"], "val": ["a00002"], "test": []}))
    train = open_source("textseg", tmp_path, split="train")
    assert [train.key(i) for i in range(2)] == ["a00001", "a00003"]
    item = train[1]
    assert item.label == "Good Morning" and item.mask is not None and item.mask[0, :5].tolist() == [0, 255, 0, 0, 0]
    assert len(open_source("textseg", tmp_path)) == 3
    with pytest.raises(SourceError, match="no part extra"):
        open_source("textseg", tmp_path, split="extra")


def test_textseg_as_split_by_hi_sam(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        write(tmp_path / f"{part}_images" / "a00001.jpg", picture(1))
        write(tmp_path / f"{part}_gt" / "a00001.png", mask(0, 100, 200, 255))
    source = open_source("textseg", tmp_path, split="train+val")
    assert [source.key(i) for i in range(2)] == ["train/a00001", "val/a00001"]
    item = source[0]
    assert item.mask is not None and item.mask[0, :4].tolist() == [0, 255, 0, 0] and item.label is None


@pytest.mark.parametrize("ending", ["_maskfg", ""])
def test_bts_lists_images_with_their_masks(tmp_path: Path, ending: str) -> None:
    for part, name in (("TRAIN", "1_0002"), ("TRAIN", "1_0001"), ("VAL", "2_0001")):
        write(tmp_path / part / "image" / f"{name}.jpg", picture(3))
        write(tmp_path / part / "semantic_label" / f"{name}{ending}.png", mask(0, 255))
    (tmp_path / "TRAIN" / "annotation").mkdir()
    (tmp_path / "TRAIN" / "annotation" / "1_0001.json").write_text("[]")
    (tmp_path / "TRAIN" / "image" / "1_0001.txt").write_text("no label")
    source = open_source("bts", tmp_path)
    assert [source.key(i) for i in range(3)] == ["TRAIN/1_0001", "TRAIN/1_0002", "VAL/2_0001"]
    item = source[2]
    assert item.mask is not None and item.mask[0, :3].tolist() == [0, 255, 0]
    assert {source[i].label for i in range(3)} == {None}  # images and masks are known of it; all else is left alone
    assert len(open_source("bts", tmp_path, split="VAL")) == len(open_source("bts", tmp_path / "VAL")) == 1


def test_real_ce_own_and_aligned(tmp_path: Path) -> None:
    for part, name in (("train", "DSC1.JPG"), ("val", "DSC2.JPG")):
        for focal in ("13mm", "26mm", "52mm"):
            write(tmp_path / part / focal / name, picture(1))
    assert [open_source("real-ce", tmp_path, focal="13mm").key(i) for i in range(2)] == [
        "train/13mm/DSC1.JPG",
        "val/13mm/DSC2.JPG",
    ]
    for name in ("DSC1", "DSC2"):
        write(tmp_path / "52mm_aligned_1024" / f"{name}.JPG", picture(2))
    write(tmp_path / "mask-52mm-bts-1024-v2" / "DSC2.png", mask(255))
    (tmp_path / "aligned_list_eval.txt").write_text("DSC2.JPG\n")
    source = open_source("real-ce", tmp_path, names="aligned_list_eval.txt")
    assert len(source) == 1 and source.key(0) == "52mm_aligned_1024/DSC2.JPG"
    found = source[0].mask
    assert found is not None and found[0, :2].tolist() == [255, 0]
    (tmp_path / "aligned_list_eval.txt").write_text("DSC7.JPG\n")
    with pytest.raises(SourceError, match="DSC7"):
        open_source("real-ce", tmp_path, names="aligned_list_eval.txt")


def test_ctr_derived(tmp_path: Path) -> None:
    write(tmp_path / "images_enhanced" / "000000007.jpg", picture(1))
    write(tmp_path / "mask" / "000000007.png", mask(0, 255))
    (tmp_path / "kept.json").write_text(json.dumps([{"filename": "000000007", "label": "北京"}]))
    item = open_source("ctr-derived", tmp_path)[0]
    assert (item.key, item.label) == ("000000007", "北京") and item.mask is not None
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(SourceError, match="2 JSON lists"):
        open_source("ctr-derived", tmp_path)
    assert len(open_source("ctr-derived", tmp_path, list="kept.json")) == 1


# ---- CTR's LMDB -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ctr(tmp_path: Path) -> Path:
    environment = lmdb.open(str(tmp_path / "scene_train"), map_size=1 << 22)
    with environment.begin(write=True) as transaction:
        for i in (1, 2, 4):
            transaction.put(b"image-%09d" % i, png(picture(i)))
        transaction.put(b"image-000000003", b"\x89PNG broken")
        for i, label in enumerate(("欢迎", "EXIT", "x", "４")):
            transaction.put(b"label-%09d" % (i + 1), label.encode())
        transaction.put(b"num-samples", b"5")
    environment.close()
    return tmp_path / "scene_train"


def test_ctr_as_published(ctr: Path) -> None:
    source = open_source("ctr", ctr)
    assert len(source) == 5 and [source.key(i) for i in (0, 4)] == ["000000001", "000000005"]
    item = source[0]
    assert item.label == "欢迎" and item.mask is None and np.array_equal(item.image, picture(1))
    with pytest.raises(SourceError, match="scene_train: image-000000003 cannot be read"):
        source[2]
    with pytest.raises(SourceError, match=r"image-000000005 is not there, though num-samples is 5"):
        source[4]


def _read(source: Any, index: int) -> int:
    return int(source[index].image.sum())


def test_ctr_is_read_by_forked_processes_and_from_pickles(ctr: Path) -> None:
    source = open_source("ctr", ctr)
    expected = _read(source, 1)  # the environment is open when the pool starts
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(_read, [(source, 1)] * 4) == [expected] * 4
    assert _read(pickle.loads(pickle.dumps(source)), 1) == _read(open_source("ctr", ctr), 1) == expected


def test_a_foreign_lmdb_is_refused(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "empty")).close()
    with pytest.raises(SourceError, match="num-samples"):
        open_source("ctr", tmp_path / "empty")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "data.mdb").write_text("no database")
    with pytest.raises(SourceError, match="no LMDB that can be read"):
        open_source("ctr", tmp_path / "text")


# ---- what is made here ----------------------------------------------------------------------------------------------


def test_rendered_lines_are_seeded_and_their_masks_exact() -> None:
    source, again = (open_source("rendered", count=20, seed=4, fonts=FONTS) for _ in range(2))
    labels = set()
    for index in range(12):
        first, second = source[index], again[index]
        assert np.array_equal(first.image, second.image) and first.label == second.label and first.label
        assert first.mask is not None and first.mask.shape == first.image.shape[:2] and first.mask.max() == 255
        assert 0.02 < (first.mask > 127).mean() < 0.7
        labels.add(first.label)
    assert len(labels) == 12
    assert open_source("rendered", count=20, seed=5, fonts=FONTS)[0].label != source[0].label


def test_procedural_backgrounds_are_reproducible() -> None:
    source = open_source("procedural", size=32, count=3)
    assert source[2].image.shape == (32, 32, 3) and source[2].mask is None
    assert not np.array_equal(source[0].image, source[1].image)


# ---- images as people have them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 0x80FF, np.uint16)).save(tmp_path / "a.png")
    else:
        Image.new(mode, (6, 4)).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    image = open_source("folder", tmp_path)[0].image
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert image[0, 0, 0] == {"RGBA": 255, "LA": 255, "CMYK": 255, "I;16": 0x80}.get(mode, 0)  # clear is white


def test_a_mask_lies_on_the_image_as_stored_whatever_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "a.png", picture(0), exif=exif)
    assert open_source("folder", tmp_path)[0].image.shape == (24, 16, 3)
    write(tmp_path / "masks" / "a.png", mask(255))
    assert open_source("folder", tmp_path, masks="masks")[0].image.shape == (16, 24, 3)
    write(tmp_path / "masks" / "a.png", mask(255, width=9))
    with pytest.raises(SourceError, match=r"masks/a.png is 9x16, its image .*a.png 24x16"):
        open_source("folder", tmp_path, masks="masks")[0]


def test_codings_of_masks_are_told_apart() -> None:
    assert select_strokes(mask(0, 1)).max() == 255 and select_strokes(mask(0, 100, 200))[0, :3].tolist() == [0, 255, 0]
    assert (
        select_strokes(mask(100, 200, 130, 127))[0, :4].tolist() == [0, 255, 255, 0]
        and select_strokes(mask()).max() == 0
    )


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "gone"])
def test_a_broken_image_is_named(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "photo.jpg", picture(0, 200, 200))
    source = open_source("folder", tmp_path)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[: len(data) // 2], "text": b"no image", "empty": b""}[damage])
    with pytest.raises(SourceError, match=r"photo\.jpg cannot be read"):
        source[0]


def test_sources_pickle_and_index_like_lists(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(0))
    for source in (
        open_source("folder", tmp_path),
        open_source("rendered", count=2),
        open_source("procedural", count=2),
    ):
        again = pickle.loads(pickle.dumps(source))
        assert again.key(-1) == source.key(len(source) - 1)
        for index in (len(source), -len(source) - 1):
            with pytest.raises(IndexError):
                source[index]


def test_wrong_requests_are_refused_in_one_sentence(tmp_path: Path) -> None:
    assert set(KINDS) == set(LICENCES)
    foreign = {"lsdir", "ctr", "ctr-derived", "textseg", "bts", "real-ce"}
    assert {kind for kind in KINDS if "see the owners' page" in LICENCES[kind]} == foreign
    for kind, path, options, said in (
        ("cifar", tmp_path, {}, "no kind of source 'cifar'"),
        ("folder", None, {}, "needs a path"),
        ("rendered", tmp_path, {}, "takes no path"),
        ("folder", tmp_path / "none", {}, "There is no folder"),
        ("folder", tmp_path, {}, "has no images"),
        ("bts", tmp_path, {"splt": "TRAIN"}, "does not know an option"),
        ("rendered", None, {"height": (90, 20)}, "two sizes"),
    ):
        with pytest.raises(TADiSRError, match=said):
            open_source(kind, path, **options)


# ---- the report -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_the_report_counts_and_names_what_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    for i in range(5):
        write(tmp_path / "set" / f"{i}.png", picture(i, 10 + i, 20))
    write(tmp_path / "set" / "masks" / "1.png", mask(255, width=11, height=20))
    (tmp_path / "set" / "2.txt").write_text("four")
    (tmp_path / "set" / "3.png").write_bytes(b"?")
    config = tmp_path / "build.yaml"
    config.write_text(f"foregrounds:\n- {{kind: folder, path: {tmp_path}/set, masks: masks}}\nn: 3\n")
    out = tmp_path / "report.json"
    flags = ["--limit", "0", "--workers", str(workers), "--json", str(out)]
    assert main(["sources", str(config), *flags]) == 1
    said = capsys.readouterr().out
    assert "5 items, 5 looked at, 1 broken" in said and "3.png cannot be read" in said and LICENCES["folder"] in said
    (report,) = json.loads(out.read_text())
    assert (report["with_mask"], report["with_label"], report["empty_masks"]) == (1, 1, 0)
    assert report["width"] == {"least": 10, "median": 11, "most": 14} and report["strokes"]["mean"] == pytest.approx(
        1 / 11
    )
    assert [row["key"] for row in report["broken"]] == ["3.png"]


def test_the_report_of_one_source_by_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("TRAIN", "VAL"):
        write(tmp_path / part / "image" / "1_1.jpg", picture(3))
        write(tmp_path / part / "semantic_label" / "1_1.png", mask(0, 255))
    assert main(["sources", "--kind", "bts", "--path", str(tmp_path), "--option", "split=VAL"]) == 0
    assert "1 items, 1 looked at, 0 broken" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="config or --kind"):
        main(["sources"])
