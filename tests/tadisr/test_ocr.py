"""Reading with the real PP-OCR, comparing, marking."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from tadisr import ConfigError, TADiSRError, ocr
from tadisr.images import from_pil, read_image, to_pil
from tadisr.visualization import overlays

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")


def page(*lines: str, size: tuple[int, int] = (420, 200)) -> torch.Tensor:
    picture = Image.new("RGB", size, "white")
    font = ImageFont.load_default(36)
    for i, text in enumerate(lines):
        ImageDraw.Draw(picture).text((24, 20 + 60 * i), text, fill="black", font=font)
    return from_pil(picture)


@pytest.fixture(scope="module")
def rapid() -> ocr.Reader:
    return ocr.open_reader("rapidocr")


def test_lines_in_reading_order_with_their_places(rapid: ocr.Reader) -> None:
    lines = rapid.read(page("First line", "Second 42", "THIRD"))
    assert [line.text for line in lines] == ["First line", "Second 42", "THIRD"]
    assert all(line.score > 0.8 and line.box.shape == (4, 2) for line in lines)
    tops = [line.box[:, 1].min() for line in lines]
    assert tops == sorted(tops) and abs(tops[1] - tops[0] - 60) < 12
    assert rapid.read(torch.ones(1, 3, 64, 64)) == []


def test_rapidocr_reads_with_the_models_of_a_folder(rapid: ocr.Reader, tmp_path: Path) -> None:
    """The wheel's own two under other names: the same weights and texts, their names in the label."""
    for stage, file in zip(("det", "rec"), rapid.files, strict=True):
        shutil.copy(file, tmp_path / f"ch_PP-OCRv9_{stage}_server.onnx")
    own = ocr.open_reader("rapidocr", tmp_path)
    assert own.digest == rapid.digest and "ch_PP-OCRv9_det_server + ch_PP-OCRv9_rec_server" in own.label
    picture = page("First line", "Second 42")
    assert [line.text for line in own.read(picture)] == [line.text for line in rapid.read(picture)]
    (tmp_path / "ch_PP-OCRv9_rec_server.onnx").unlink()
    with pytest.raises(TADiSRError, match=r"must hold one ONNX file with _rec_ in its name.*found none"):
        ocr.open_reader("rapidocr", tmp_path)


def test_lines_beside_one_another_go_from_left_to_right(rapid: ocr.Reader) -> None:
    picture = torch.cat([page("LEFT", size=(300, 90)), page("RIGHT", size=(300, 90))], 3)
    assert [line.text for line in rapid.read(picture)] == ["LEFT", "RIGHT"]


def test_given_boxes_are_read_even_when_they_are_empty_or_stand_upright(rapid: ocr.Reader) -> None:
    picture = page("Hello")
    (line,) = rapid.read(picture)
    empty = np.array([[300, 120], [400, 120], [400, 180], [300, 180]], np.float32)
    hello, nothing = rapid.read_boxes(picture, [line.box, empty])
    assert hello.text == "Hello" and nothing.text == ""
    turned = torch.rot90(picture, -1, (2, 3))  # the line now runs downwards
    x, y = line.box[:, 0], line.box[:, 1]
    corners = np.stack([picture.shape[2] - y, x], 1)[[3, 0, 1, 2]].astype(np.float32)
    assert rapid.read_boxes(turned, [corners])[0].text == "Hello"


@pytest.mark.parametrize(
    ("first", "second", "two", "one"),
    [("text", "text", 1, 1), ("text", "test", 0.75, 0.875), ("ab", "cd", 0, 0.5), ("", "", 1, 1), ("", "ab", 0, 0)],
)
def test_ratio_by_hand(first: str, second: str, two: float, one: float) -> None:
    """The paper's formula, with a substitution as two and as one."""
    assert ocr.text_ratio(first, second) == pytest.approx(two)
    assert ocr.text_ratio(first, second, substitution=1) == pytest.approx(one)


def test_compare_finds_the_changed_line_and_marks_it(rapid: ocr.Reader) -> None:
    before, after = page("same line", "Street 21"), page("same line", "Street 27")
    pairs = ocr.compare_text(before, after, rapid)
    assert [pair.ratio == 1 for pair in pairs] == [True, False]
    assert pairs[1].ratio == pytest.approx(1 - 2 / (2 * len(pairs[1].before.text)))
    boxes = [pair.before.box for pair in pairs]
    drawn = overlays.draw_boxes(after, boxes, [overlays.GREEN, overlays.RED])
    assert drawn.shape == after.shape
    red = (drawn[0, 0] > 0.8) & (drawn[0, 1] < 0.3)
    assert red[70:].any() and not red[:60].any()
    mask = overlays.box_mask(boxes[1:], (200, 420))
    assert mask.shape == (1, 1, 200, 420) and mask[..., :60, :].sum() == 0 and mask[..., 70:120, 24:100].mean() > 0.5
    assert ocr.compare_text(torch.ones(1, 3, 32, 32), after[..., :32, :32], rapid) == []


def line(text: str) -> ocr.Line:
    return ocr.Line(text, 0.9, np.zeros((4, 2), np.float32))


def test_ocr_a_by_hand() -> None:
    """kitten, sitting: distance 3, so (6 + 7 - 3) / 13; strict 5, as its two substitutions count twice."""
    one = ocr.score_pairs([ocr.Pair(line("sitting"), line("kitten")), ocr.Pair(line("same"), line("same"))])
    assert (
        one is not None
        and one.ocr_a == pytest.approx((10 / 13 + 1) / 2)
        and one.strict == pytest.approx((8 / 13 + 1) / 2)
    )
    assert (one.exact, one.lines, one.pictures) == (0.5, 2, 1)
    gone = ocr.score_pairs([ocr.Pair(line("ab"), line("cd"))])
    assert gone is not None and (gone.ocr_a, gone.strict) == (0.5, 0)
    both = ocr.average_scores([one, None, gone])  # an image of two lines counts as much as one of one
    assert both is not None and both.ocr_a == pytest.approx((one.ocr_a + 0.5) / 2)
    assert (both.lines, both.pictures, both.exact) == (3, 2, 0.25)
    assert ocr.score_pairs([]) is None and ocr.average_scores([None]) is None


def test_a_reader_says_which_models_it_has(rapid: ocr.Reader) -> None:
    assert all(path.is_file() for path in rapid.files) and len(rapid.files) == 2
    detector, recognizer = (hashlib.sha256(path.read_bytes()).digest() for path in rapid.files)
    assert rapid.digest == hashlib.sha256(detector + recognizer).hexdigest()
    assert rapid.label.startswith("rapidocr ") and "_det_" in rapid.label and rapid.digest[:12] in rapid.label


def test_the_sample_is_read(rapid: ocr.Reader) -> None:
    texts = " ".join(line.text for line in rapid.read(read_image("sample/sample.png")[:, :3]))
    assert len(texts) > 20


def test_engines_that_are_not_there_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="engine is 'tesseract', expected auto, paddleocr or rapidocr"):
        ocr.open_reader("tesseract")
    with pytest.raises(TADiSRError, match=r"none of its models: put .* into"):
        ocr.find_models([tmp_path])
    for name in ("rapidocr", "paddleocr"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        TADiSRError, match=r"No text can be read: paddleocr .* rapidocr .* `pip install rapidocr onnxruntime"
    ):
        ocr.open_reader("auto", tmp_path)


def test_paddle_models_are_found_in_pairs_the_users_folder_first(tmp_path: Path) -> None:
    mine, cache = tmp_path / "mine", tmp_path / "cache"
    for folder in (mine / "PP-OCRv4_mobile_det", mine / "PP-OCRv4_mobile_rec", cache / "PP-OCRv5_server_det"):
        folder.mkdir(parents=True)
        (folder / "inference.yml").write_text("")
    (mine / "PP-OCRv4_mobile_rec" / "inference.onnx").write_text("")
    assert [path.name for path in ocr.find_models([mine, cache])] == ["PP-OCRv4_mobile_det", "PP-OCRv4_mobile_rec"]
    assert ocr.choose_backend(mine / "PP-OCRv4_mobile_rec")["engine"] == "onnxruntime"
    assert ocr.choose_backend(mine / "PP-OCRv4_mobile_det")["engine"] == "paddle_static"


def test_a_reader_is_loaded_once_until_models_are_added(rapid: ocr.Reader, tmp_path: Path) -> None:
    for file in rapid.files:
        shutil.copy(file, tmp_path)
    first = ocr.open_reader("rapidocr", tmp_path)
    assert ocr.open_reader("rapidocr", tmp_path) is first
    (tmp_path / "PP-OCRv5_mobile_det").mkdir()
    assert ocr.open_reader("rapidocr", tmp_path) is not first


# ---- paddleocr ------------------------------------------------------------------------------------------------------


def test_paddleocr_fills_the_judges_whole_table(tmp_path: Path) -> None:
    """Model folders in paddleocr's own layout, with the models of rapidocr's wheel: the same weights, another engine."""
    pytest.importorskip("paddleocr", reason="paddleocr is not installed: pip install -e '.[ocr-paddle]'")
    from train.evaluate import main, read_report

    for folder in ("hr", "lr"):
        (tmp_path / folder).mkdir()
    picture = to_pil(page("Station", "Exit 24"))
    picture.save(tmp_path / "hr" / "a.png")
    picture.resize((105, 50), Image.Resampling.BICUBIC).save(tmp_path / "lr" / "a.png")
    arguments = ["--data", str(tmp_path), "--baseline", "bicubic", "--device", "cpu", "-o", str(tmp_path / "report")]
    assert (
        main([*arguments, "--engine", f"paddleocr:{paddle_models(tmp_path / 'models')}", "--engine", "rapidocr"]) == 0
    )
    report = read_report(tmp_path / "report")
    assert (
        report["engines"][0].startswith("paddleocr ")
        and "(PP-OCRv6_small_det + PP-OCRv6_small_rec, " in report["engines"][0]
    )
    assert report["engines"][1].startswith("rapidocr ")
    assert [row["name"] for row in report["rows"]] == ["compact", "bicubic"]
    for row in report["rows"]:
        assert 0 < row["ocr_a"] <= 1 and 0 <= row["ocr_a_strict"] <= row["ocr_a"] and 0 <= row["line_match"] <= 1


def paddle_models(folder: Path) -> Path:
    """What paddleocr's model folders hold: inference.onnx, and how images are prepared and letters named."""
    import onnxruntime
    import yaml

    detector, recognizer = ocr.open_reader("rapidocr").files
    metadata = onnxruntime.InferenceSession(str(recognizer)).get_modelmeta().custom_metadata_map
    decode = {"DecodeImage": {"channel_first": False, "img_mode": "BGR"}}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normalize = {"NormalizeImage": {"mean": mean, "std": std, "scale": "1./255.", "order": "hwc"}}
    boxes = {"name": "DBPostProcess", "thresh": 0.3, "box_thresh": 0.6, "max_candidates": 1000, "unclip_ratio": 1.5}
    letters = {"name": "CTCLabelDecode", "character_dict": metadata["character"].split("\n")}
    for model, name, operations, after in (
        (detector, "PP-OCRv6_small_det", [{"DetResizeForTest": {"resize_long": 960}}, normalize, {"ToCHWImage": None}], boxes),
        (recognizer, "PP-OCRv6_small_rec", [{"RecResizeImg": {"image_shape": [3, 48, 320]}}], letters),
    ):  # fmt: skip
        (folder / name).mkdir(parents=True)
        shutil.copy(model, folder / name / "inference.onnx")
        table = {
            "Global": {"model_name": name},
            "PreProcess": {"transform_ops": [decode, *operations]},
            "PostProcess": after,
        }
        (folder / name / "inference.yml").write_text(yaml.safe_dump(table, allow_unicode=True), encoding="utf-8")
    return folder
