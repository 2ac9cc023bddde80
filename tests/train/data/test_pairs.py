"""Pairs on disk: the layouts as their owners publish them, splits, labels, and refusals that say what is wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tadisr import ConfigError, ImageError
from tadisr.images import resize_image
from train.data.pairs import Label, Pair, open_pairs

RNG = np.random.default_rng(0)


def picture(path: Path, height: int, width: int, channels: int = 3, **options: object) -> np.ndarray:
    """A smooth random image."""
    small = torch.from_numpy(RNG.random((1, channels, 3, 3))).float()
    pixels = (resize_image(small, (height, width))[0].permute(1, 2, 0) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path, **options)
    return pixels


def ftsr(folder: Path, numbers: range, *, low: str = "sr_bicubic") -> Path:
    for number in numbers:
        side = 32 if low == "sr_bicubic" else 8
        picture(folder / "gt" / f"{number:07d}.png", 32, 32)
        picture(folder / low / f"{number:07d}.png", side, side)
        picture(folder / "mask" / f"{number:07d}.png", 32, 32, 1)
    return folder


def realce(folder: Path, names: list[str]) -> Path:
    for name in names:
        picture(folder / "52mm_aligned_1024" / f"{name}.JPG", 24, 40, format="JPEG")
        picture(folder / "13mm_aligned_1024" / f"{name}.JPG", 24, 40, format="JPEG")
        picture(folder / "mask-52mm-bts-1024-v2" / f"{name}.png", 24, 40, 1)
    return folder


def plain(folder: Path, names: list[str], size: tuple[int, int] = (24, 32)) -> Path:
    for name in names:
        picture(folder / "hr" / f"{name}.png", *size)
        picture(folder / "lr" / f"{name}.jpg", size[0] // 4, size[1] // 4)
    return folder


def test_ftsr_and_its_split(tmp_path: Path) -> None:
    """sr_bicubic is the network's input itself; of a small build the first nine tenths train."""
    folder = ftsr(tmp_path, range(1, 11))
    pairs = open_pairs(folder)
    assert (pairs.layout, pairs.split, [pair.key for pair in pairs]) == ("FTSR", "test", ["0000010"])
    assert len(open_pairs(folder, split="train")) == 9 and len(open_pairs(folder, split="all")) == 10
    pair = pairs[0]
    assert pair.is_upscaled and pair.hr.shape == (32, 32, 3) and pair.hr.dtype == np.uint8
    given = np.array(Image.open(folder / "sr_bicubic" / "0000010.png"))
    assert (pair.upscaled == given).all() and pair.lr.shape == (8, 8, 3)
    again = resize_image(torch.from_numpy(pair.lr).permute(2, 0, 1)[None] / 255, (32, 32))[0].permute(1, 2, 0) * 255
    assert np.abs(again.numpy() - given).mean() < 3  # the LR image leads back to it
    assert pair.mask is not None and pair.mask.shape == (32, 32)
    assert pickle.loads(pickle.dumps(pairs))[0] == pair  # for data workers


def test_ftsr_is_cut_at_the_papers_number(tmp_path: Path) -> None:
    folder = ftsr(tmp_path, range(44_999, 45_003), low="lr")
    assert [pair.key for pair in open_pairs(folder, split="test")] == ["0045001", "0045002"]
    assert [pair.key for pair in open_pairs(folder, split="train")] == ["0044999", "0045000"]
    assert not open_pairs(folder)[0].is_upscaled


def test_an_lr_folder_goes_before_sr_bicubic(tmp_path: Path) -> None:
    folder = ftsr(ftsr(tmp_path, range(1, 3)), range(1, 3), low="lr")
    assert open_pairs(folder)[0].lr_path.parent.name == "lr"


def test_realce_goes_by_its_lists(tmp_path: Path) -> None:
    folder = realce(tmp_path, ["IMG 1", "IMG_2", "IMG_3", "misaligned"])
    (folder / "aligned_list_train.txt").write_text("IMG 1.JPG\nIMG_2.JPG\n")
    (folder / "aligned_list_eval.txt").write_text("IMG_3\r\n\r\n")
    assert [pair.key for pair in open_pairs(folder)] == ["IMG_3"]
    assert [pair.key for pair in open_pairs(folder, split="train")] == ["IMG 1", "IMG_2"]
    assert len(open_pairs(folder, split="all")) == 3  # what is on no list was filtered out
    pair = open_pairs(folder)[0]
    assert pair.is_upscaled and pair.upscaled.shape == pair.hr.shape == (24, 40, 3) and pair.lr.shape == (6, 10, 3)
    assert pair.mask is not None and pair.mask.shape == (24, 40)
    (folder / "aligned_list_eval.txt").write_text("IMG_3\nIMG_9\n")
    with pytest.raises(ConfigError, match=r"52mm_aligned_1024 has no image IMG_9 \(1 of 2 are missing\)"):
        open_pairs(folder)


def test_plain_folders_nested_and_with_lists(tmp_path: Path) -> None:
    folder = plain(tmp_path, ["a", "deep/b"])
    pairs = open_pairs(folder)
    assert [pair.key for pair in pairs] == ["a", "deep/b"] and (pairs.layout, pairs.split) == ("plain", "all")
    assert pairs[0].mask is None and pairs[0].label is None
    assert pairs[1].upscaled.shape == (24, 32, 3) and pairs[1].lr.shape == (6, 8, 3)
    assert isinstance(pairs[:1], type(pairs)) and len(pairs[:1]) == 1
    with pytest.raises(ConfigError, match=r"has no train\.txt, which would say"):
        open_pairs(folder, split="train")
    (folder / "test.txt").write_text("deep/b.png\n")
    assert [pair.key for pair in open_pairs(folder)] == ["deep/b"]


def test_sides_that_are_no_multiple_of_four(tmp_path: Path) -> None:
    for part in ("hr", "lr"):
        picture(tmp_path / part / "a.png", 30, 33)
    pair = open_pairs(tmp_path)[0]
    assert pair.upscaled.shape == (30, 33, 3) and pair.lr.shape == (8, 9, 3)
    picture(tmp_path / "lr" / "a.png", 7, 8)
    with pytest.raises(ImageError, match=r"lr/a\.png is 8x7, .*hr/a\.png 33x30: expected LR images of the same"):
        _ = open_pairs(tmp_path)[0].lr


def test_images_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    plain(tmp_path, ["a"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "hr" / "a.png").transpose(Image.Transpose.ROTATE_90).save(
        tmp_path / "hr" / "a.png", exif=exif
    )
    pair = open_pairs(tmp_path)[0]
    assert pair.size == (24, 32) == pair.hr.shape[:2] and pair.lr.shape[:2] == (6, 8)


def test_masks_of_zero_and_one(tmp_path: Path) -> None:
    plain(tmp_path, ["a"])
    (tmp_path / "mask").mkdir()
    Image.fromarray(np.eye(24, 32, dtype=np.uint8)).save(tmp_path / "mask" / "a.png")
    mask = open_pairs(tmp_path)[0].mask
    assert mask is not None and mask.max() == 255 and (mask > 0).sum() == 24
    Image.fromarray(np.eye(6, 8, dtype=np.uint8)).save(tmp_path / "mask" / "a.png")
    with pytest.raises(ImageError, match=r"mask/a\.png is 8x6, .* 32x24: expected the same"):
        _ = open_pairs(tmp_path)[0].mask


def test_labels_in_their_forms(tmp_path: Path) -> None:
    plain(tmp_path, ["a", "b", "c"])
    box = [[1, 2], [9, 2], [9, 5], [1, 5]]
    corners = ((1.0, 2.0), (9.0, 2.0), (9.0, 5.0), (1.0, 5.0))
    (tmp_path / "labels.json").write_text(
        json.dumps({"a.png": ["EXIT", {"text": "出口", "box": box}], "b": "one line"})
    )
    a, b, c = open_pairs(tmp_path)
    assert a.label == (Label("EXIT"), Label("出口", corners)) and b.label == (Label("one line"),) and c.label == ()
    (tmp_path / "labels.txt").write_text("")
    with pytest.raises(ConfigError, match="both labels"):
        open_pairs(tmp_path)
    (tmp_path / "labels.json").unlink()
    paddle = json.dumps([{"transcription": "出口", "points": box}, {"transcription": "###", "points": box}])
    rows = ["a.png\tEXIT", "a.png\t1,2,9,2,9,5,1,5\t出口", f"b.png\t{paddle}"]
    (tmp_path / "labels.txt").write_text("\n".join(rows), encoding="utf-8")
    a, b, _ = open_pairs(tmp_path)
    assert a.label == (Label("EXIT"), Label("出口", corners)) and b.label == (Label("出口", corners),)


def test_labels_of_a_data_set_that_was_built_here(tmp_path: Path) -> None:
    """The crops' own labels, where they were put; one of two lines cannot be read in one box."""
    folder = ftsr(tmp_path, range(1, 3), low="lr")
    crops = [
        {"label": "出口", "place": [4, 6, 20, 8], "line_height": 8.0},
        {"label": "two lines", "place": [4, 16, 20, 12], "line_height": 6.0},
        {"label": None, "place": [0, 0, 4, 4], "line_height": 4.0},
    ]
    rows = [{"id": "0000001", "foregrounds": crops}, {"id": "0000002", "foregrounds": []}]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    one, two = open_pairs(folder, split="all")
    assert one.label == (Label("出口", ((4, 6), (24, 6), (24, 14), (4, 14))),) and two.label == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.json", "{", "labels.json is no JSON"),
        ("labels.json", '{"z": ["x"]}', "name z, which is not in hr/"),
        ("labels.json", '{"a": [3]}', "3 is no line of text"),
        ("labels.json", '{"a": [{"text": "x", "box": [[1, 2]]}]}', "has 1 corners, expected 4"),
        ("labels.txt", "a\t1,2,3\tx", "is no box, expected four corners"),
        ("labels.txt", "a\tx\ty", "line 1: 'x' is no box, expected x1,y1"),
        ("labels.txt", "a", "line 1 has 1 columns"),
    ],
)
def test_wrong_labels_get_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    plain(tmp_path, ["a"])
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_pairs(tmp_path)


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no folder"):
        open_pairs(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"has none of the folders .* gt/ \(FTSR\), .* hr/ \(plain\)"):
        open_pairs(tmp_path)
    (tmp_path / "hr").mkdir()
    with pytest.raises(ConfigError, match="has hr/, but no lr/"):
        open_pairs(tmp_path)
    (tmp_path / "lr").mkdir()
    with pytest.raises(ConfigError, match="hr has no images"):
        open_pairs(tmp_path)
    plain(tmp_path, ["a", "b"])
    with pytest.raises(ConfigError, match="split is 'val', expected auto, all, train or test"):
        open_pairs(tmp_path, split="val")  # pyright: ignore[reportArgumentType]
    (tmp_path / "hr" / "b.png").unlink()
    with pytest.raises(ConfigError, match=r"hr has no image b, .*lr has \(1 such\)"):
        open_pairs(tmp_path)
    picture(tmp_path / "hr" / "a.bmp", 24, 32)
    with pytest.raises(ConfigError, match=r"a\.bmp and .*a\.png have one name"):
        open_pairs(tmp_path)


def test_broken_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture(path, 40, 40)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ImageError, match=r"a\.png is broken"):
        _ = Pair("a", path, path).hr
    path.write_text("no image")
    with pytest.raises(ImageError, match=r"a\.png is no image"):
        _ = Pair("a", path, path).hr
