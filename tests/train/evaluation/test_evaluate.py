"""The judge as a command: its figures against independent ones, what it keeps, its tables and page, its refusals."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_evaluation import SIZE, image, rows

import tadisr
from tadisr import ocr, preset
from tadisr.checkpoints import adapter
from tadisr.images import from_pixels
from tadisr.inference.tiling import Tiling
from train.data.pairs import open_pairs
from train.evaluate import build_parser, choose_methods, main, read_report
from train.evaluation import methods, metrics

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")


def test_every_method_has_a_row_with_independent_figures(report: Path, data: Path, finished: Path) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    found = rows(report)
    assert list(found) == ["compact", "bicubic", "lanczos", "TinyESRGAN_x4", "finished"]
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for name, filter_ in (("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)):
        psnr, ssim = [], []
        for number in range(3):
            hr = np.array(Image.open(data / "hr" / f"{number}.png"))
            large = np.array(Image.open(data / "lr" / f"{number}.png").resize(SIZE, filter_))
            psnr.append(peak_signal_noise_ratio(hr, large, data_range=255))
            ssim.append(structural_similarity(hr, large, channel_axis=2, **options))
        # PIL rounds between its two passes, the pipeline's bicubic does not
        assert found[name]["psnr"] == pytest.approx(np.mean(psnr), abs=1e-3 if name == "lanczos" else 0.05)
        assert found[name]["ssim"] == pytest.approx(np.mean(ssim), abs=1e-5 if name == "lanczos" else 5e-3)
    kept = [report / "pictures" / "compact" / f"{number}.png" for number in range(3)]
    assert all(path.is_file() for path in kept)
    ours = tadisr.upscale(tadisr.load(), image(data / "lr" / "0.png")).image
    assert (ours - image(kept[0])).abs().max() < 1 / 255
    assert found["finished"]["psnr"] > 60 and found["TinyESRGAN_x4"]["psnr"] < found["bicubic"]["psnr"]
    assert found["bicubic"]["kind"] == "bicubic" and found["TinyESRGAN_x4"]["kind"] == "spandrel"


def test_ocr_a_is_the_librarys(report: Path, data: Path, finished: Path) -> None:
    """What TADiSRCompareText counts with, on the same images; the bare wall does not count."""
    reader = ocr.open_reader("rapidocr")
    scores = []
    for number in range(3):
        pairs = ocr.compare_text(image(data / "hr" / f"{number}.png"), image(finished / f"{number}.png"), reader)
        scores.append(ocr.score_pairs(pairs))
    expected, row = ocr.average_scores(scores), rows(report)["finished"]
    assert expected is not None and (expected.lines, expected.pictures) == (3, 2)
    assert row["ocr_a"] == pytest.approx(expected.ocr_a, abs=1e-6) and row["ocr_a"] < 1
    assert row["ocr_a_strict"] == pytest.approx(expected.strict, abs=1e-6)
    assert row["ocr_a"] == pytest.approx((((12 - 1) / 12 + 1) / 2 + 1) / 2, abs=1e-6)  # CLOSER for CLOSED
    assert row["line_match"] == pytest.approx(0.75) and (row["lines"], row["pictures_with_text"]) == (3, 2)
    assert row["engine"] == reader.label == read_report(report)["engines"][0] and reader.digest[:12] in row["engine"]
    assert row["engines"][reader.label]["ocr_a"] == row["ocr_a"]


def test_labels_are_another_measure(report: Path) -> None:
    """Someone labelled Street 27: the engine reads 21 in HR and result alike."""
    row = rows(report)["finished"]
    assert row["labels"] == 3 and row["line_match_label"] == pytest.approx(0.25)
    assert row["ocr_a_label"] == pytest.approx((((12 - 1) / 12 + 1) / 2 + 17 / 18) / 2, abs=1e-6)


def test_spotting_against_labels_with_boxes(report: Path) -> None:
    """Image 0 has two labelled boxes: in HR's copy with CLOSER both are detected, one is spotted."""
    row = rows(report)["finished"]
    assert (row["det_precision"], row["det_recall"], row["det_f1"]) == (1, 1, 1)
    assert (row["spot_precision"], row["spot_recall"], row["spot_f1"]) == (0.5, 0.5, 0.5)
    assert row["interval"]["spot_f1"] is not None and "spotted F1" in (report / "report.md").read_text()


def test_the_authors_conventions_and_a_segmenter(report: Path, data: Path, finished: Path, tmp_path: Path) -> None:
    """SSIM padded with zeros, PSNR as before, a note on the reader; a segmenter's mask as a row of its own."""
    arguments = ["--data", str(data), "--model", "none", "--baseline", "bicubic", "--results", f"TiGeSR={finished}"]
    arguments += [
        "--results",
        f"TeReDiff={finished}",
        "--baseline",
        f"SAM-TS=segmenter:{tadisr.COMPACT}",
        "--device",
        "cpu",
    ]
    assert main([*arguments, "--conventions", "authors", "--engine", "rapidocr", "-o", str(tmp_path)]) == 0
    found, before = rows(tmp_path), rows(report)
    assert list(found) == ["bicubic", "SAM-TS", "TiGeSR", "TeReDiff"]
    assert found["bicubic"]["psnr"] == before["bicubic"]["psnr"]
    hrs, larges = ([np.array(Image.open(p / f"{i}.png")) for i in range(3)] for p in (data / "hr", finished))
    padded = np.mean([metrics.compute_ssim(a, b, padding="zeros") for a, b in zip(hrs, larges, strict=True)])
    assert found["TiGeSR"]["ssim"] == pytest.approx(padded, abs=1e-6)
    assert found["bicubic"]["ssim"] != before["bicubic"]["ssim"]
    notes = read_report(tmp_path)["notes"]
    assert any("PP-OCRv4's server detector" in note and "rapidocr:FOLDER" in note for note in notes)
    row = found["SAM-TS"]
    assert row["kind"] == "segmenter" and row["psnr"] == found["bicubic"]["psnr"] and 0 < row["mask_iou"] < 1


def test_masks_are_scored_against_true_masks(report: Path, data: Path) -> None:
    """Half the mask is missing, none of it is wrong."""
    masks = [np.array(Image.open(data / "mask" / f"{number}.png")) > 127 for number in range(3)]
    hit, whole = sum(int(m[:, : SIZE[0] // 2].sum()) for m in masks), sum(int(m.sum()) for m in masks)
    found = rows(report)
    assert found["finished"]["mask_iou"] == pytest.approx(hit / whole, abs=1e-6)
    assert found["finished"]["mask_f1"] == pytest.approx(2 * hit / (hit + whole), abs=1e-6)
    assert found["bicubic"]["mask_iou"] is None and found["compact"]["mask_iou"] is not None


def test_masks_beside_the_lines_that_are_read(report: Path) -> None:
    """The mask is the strokes of the left half; the boxes that the reader finds hold them all."""
    found = rows(report)
    assert found["finished"]["mask_on_lines"] > 0.98 and found["finished"]["lines_masked"] > 0.5
    assert found["bicubic"]["mask_on_lines"] is None and 0 <= found["compact"]["lines_masked"] <= 1
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:30] = 255
    box, bare = (np.array([[x, 8], [x + 22, 8], [x + 22, 22], [x, 22]], np.float32) for x in (20, 36))
    assert metrics.count_mask_on_lines(mask, [box, bare]) == (
        100,
        200,
        1,
        2,
    )  # columns 20 to 29; the other box is empty
    assert metrics.count_mask_on_lines(mask, []) == (0, 200, 0, 0)


def test_the_same_again_computes_nothing(
    report: Path, data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Everything is kept: the second report is the first one, without an image made or a line read."""

    def refuse(*_arguments: object) -> None:
        raise AssertionError("this was done already")

    copy = shutil.copytree(report, tmp_path / "copy")
    arguments = [
        "--data",
        str(data),
        "--baseline",
        "lanczos",
        "--results",
        f"finished={finished}",
        "--engine",
        "rapidocr",
    ]
    arguments += ["--cache", str(report / "cache"), "--device", "cpu"]
    monkeypatch.setattr(methods.Ours, "model", property(refuse))
    monkeypatch.setattr(ocr.RapidReader, "detect_lines", refuse)
    monkeypatch.setattr(ocr.RapidReader, "recognize_line", refuse)
    monkeypatch.setattr("train.evaluation.record.compute_psnr", refuse)
    assert main([*arguments, "-o", str(copy), "--bootstrap", "7"]) == 0
    again, kept = rows(copy), rows(report)
    drawn = ("interval", "difference", "by")
    for name in ("compact", "lanczos", "finished"):
        assert {k: v for k, v in again[name].items() if k not in drawn} == {
            k: v for k, v in kept[name].items() if k not in drawn
        }
    picture = finished / "1.png"
    before = picture.read_bytes()
    Image.open(picture).rotate(2).save(picture)
    with pytest.raises(AssertionError, match="done already"):  # another image is not taken for the first
        main([*arguments, "-o", str(tmp_path / "other")])
    picture.write_bytes(before)


def test_an_interrupted_run_resumes(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = methods.Plain.make

    def counting(method: methods.Plain, pair: Any) -> methods.Made:
        if len(made) == 2:
            made.append("stop")
            raise KeyboardInterrupt
        made.append(pair.key)
        return make(method, pair)

    monkeypatch.setattr(methods.Plain, "make", counting)
    arguments = [
        "--data",
        str(data),
        "--model",
        "none",
        "--baseline",
        "lanczos",
        "--engine",
        "none",
        "-o",
        str(tmp_path),
    ]
    assert main(arguments) == 130 and made == ["0", "1", "stop"]
    monkeypatch.setattr(
        "train.evaluate.page.render_report", lambda *_: ""
    )  # which shows images, and so makes them again
    assert main(arguments) == 0 and made == ["0", "1", "stop", "2"]
    assert rows(tmp_path)["lanczos"]["ocr_a"] is None


def test_an_lr_file_of_hrs_size_is_fed_as_it_is(tmp_path: Path) -> None:
    """FTSR's sr_bicubic goes into the network itself, also where its sides are no multiple of four."""
    rng = np.random.default_rng(0)
    for part in ("gt", "sr_bicubic"):
        (tmp_path / part).mkdir()
        Image.fromarray(rng.integers(0, 256, (30, 45, 3), dtype=np.uint8)).save(tmp_path / part / "0000001.png")
    (pair,) = open_pairs(tmp_path, split="all")
    ours, bicubic = choose_methods(
        build_parser().parse_args(["--data", "x", "-o", "x", "--baseline", "bicubic", "--device", "cpu"])
    )
    assert (bicubic.make(pair).picture == pair.upscaled).all()
    made = ours.make(pair)
    assert made.picture.shape == (30, 45, 3) and made.mask is not None and made.mask.shape == (30, 45)
    model = tadisr.load()
    margin = 4 * Tiling().margin
    padded = np.pad(pair.upscaled, ((margin, margin + 2), (margin, margin + 3), (0, 0)), "edge")
    assert all(side % model.config.multiple == 0 for side in padded.shape[:2])
    with torch.no_grad():
        whole = model(from_pixels(padded)).image
    expected = whole[..., margin : margin + 30, margin : margin + 45].clamp(0, 1)
    assert (from_pixels(made.picture) - expected).abs().max() < 1 / 255


def test_several_models_are_compared_with_the_first(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {}
    for seed, name in enumerate(("full", "wo_jsd")):
        torch.manual_seed(seed)
        files[name] = tmp_path / f"{name}.safetensors"
        adapter.save_checkpoint(tadisr.TADiSR(preset("compact")), files[name])
    arguments = [
        "--data",
        str(data),
        "--limit",
        "2",
        "--engine",
        "none",
        "-o",
        str(tmp_path / "report"),
        "--device",
        "cpu",
    ]
    chosen = [part for name, file in files.items() for part in ("--model", f"{name}={file}")]
    assert main([*arguments, *chosen, "--baseline", "bicubic"]) == 0
    assert "| full |" in capsys.readouterr().out
    found = rows(tmp_path / "report")
    assert list(found) == ["full", "wo_jsd", "bicubic"] and found["wo_jsd"]["pictures"] == 2
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Differences to full" in text and "| wo_jsd |" in text.split("## Differences to full")[1]
    table_2 = text.split("## Table 2")[1].split("##")[0]
    assert table_2.index("w/o JSD (paper)") < table_2.index("| wo_jsd |") < table_2.index("w/o TACA (paper)")
    assert main([*arguments, *chosen, "--baseline", "bicubic", "--first", "bicubic"]) == 0
    assert next(iter(rows(tmp_path / "report"))) == "bicubic"


def test_an_adapter_on_a_frozen_base(
    data: Path, kolors_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tiny Kolors with LoRA, as `--model adapter --base folder` has it."""
    from tiny import randomize, tiny_kolors_config

    from tadisr.checkpoints.base_model import load_base
    from tadisr.model.lora import add_lora

    config = tiny_kolors_config()
    model = load_base(kolors_base, config)
    assert config.lora is not None
    add_lora(model, config.lora)
    adapter.save_checkpoint(randomize(model), tmp_path / "adapter.safetensors")
    arguments = [
        "--data",
        str(data),
        "--limit",
        "1",
        "--engine",
        "none",
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "report"),
    ]
    arguments += ["--model", f"kolors={tmp_path / 'adapter.safetensors'}"]
    assert main(arguments) == 1 and "say with --base where its frozen base lies" in capsys.readouterr().err
    assert main([*arguments, "--base", str(kolors_base)]) == 0
    row = rows(tmp_path / "report")["kolors"]
    assert row["psnr"] > 0 and row["mask_iou"] is not None


def test_results_of_another_size_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", SIZE).save(tmp_path / "0.png")
    Image.new("L", (20, 10)).save(tmp_path / "0_mask.png")
    arguments = ["--data", str(data), "--model", "none", "--engine", "none", "-o", str(tmp_path / "report")]
    assert main([*arguments, "--results", str(tmp_path)]) == 1
    assert f"0_mask.png is 20x10, its HR image {SIZE[0]}x{SIZE[1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--results", "{tmp}/none"], "There is no folder .*none of results"),
        (["--results", "{tmp}"], r"has no image 0: results are named as the HR images"),
        (["--baseline", "bicubic", "--baseline", "bicubic"], "Two methods are called bicubic"),
        (["--baseline", "cubic"], "'cubic' is no baseline, expected bicubic, lanczos, esrgan:FILE or segmenter:FILE"),
        (["--baseline", "esrgan:{tmp}/none.pth"], "There is no file .*none.pth"),
        (["--baseline", "x=esrgan:{data}/labels.json"], "labels.json is no network spandrel can load"),
        (["--baseline", "HR=bicubic"], "'HR' cannot be a method's name"),
        (["--baseline", "bicubic", "--first", "lanczos"], "--first names lanczos, which is none of the methods"),
        (["--baseline", "bicubic", "--engine", "tesseract"], "engine is 'tesseract'"),
        (["--baseline", "bicubic", "--beside", "{tmp}"], "There is no report"),
        (["--baseline", "bicubic", "--limit", "0"], "limit is 0, expected 1 or more"),
        ([], "There is nothing to judge"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    arguments: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [text.format(tmp=tmp_path, data=data) for text in arguments]
    engine = [] if "--engine" in filled else ["--engine", "none"]
    assert main(["--data", str(data), "--model", "none", *filled, *engine, "-o", str(tmp_path / "out")]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_network_of_another_scale_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.save(ESRGAN(num_filters=8, num_blocks=1, scale=2).state_dict(), tmp_path / "x2.pth")
    arguments = ["--data", str(data), "--model", "none", "--engine", "none", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--baseline", f"esrgan:{tmp_path / 'x2.pth'}"]) == 1
    assert "magnifies 2 times" in capsys.readouterr().err
