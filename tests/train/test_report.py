"""Curves of training runs: what is read of them, what is drawn."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tadisr import ConfigError, TADiSR, preset
from tadisr.checkpoints import adapter
from train.report import draw_losses, draw_validation, main, read_curves, read_run, smooth_curve


def write_run(folder: Path, *, steps: int = 40, validation: bool = True) -> Path:
    """What train.fit leaves behind."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [f"{i},{1 / i:.5g},{2 / i + rng.random() / 9:.5g},{3 / i:.5g},0.001,0.02" for i in range(1, steps + 1)]
    (folder / "log.csv").write_text("\n".join(["step,mse,mf,total,lr,waiting", *rows]) + "\n")
    if validation:
        rows = ["10,24.5,23.1,0.2,0.55", "20,25.5,23.1,0.4,0.61", "30,25.2,23.1,0.5,nan"]
        (folder / "validation.csv").write_text("\n".join(["step,psnr,psnr_bicubic,mask_iou,ocr_a", *rows]) + "\n")
    Image.new("RGB", (50, 20), "teal").save(folder / "panel-0000020.png")
    Image.new("RGB", (50, 20), "navy").save(folder / "panel-0000040.png")
    return folder


def test_a_run_becomes_figures_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "compact")
    adapter.save_checkpoint(TADiSR(preset("compact")), run / "model.safetensors", training={"steps": 40, "seed": 5})
    assert main([str(run)]) == 0
    page = run / "report" / "report.html"
    assert str(page) in capsys.readouterr().out
    text = unescape(page.read_text())
    shown = re.findall(r'src="([^"]+)"', text)
    assert shown == ["validation.png", "losses.png", "panel-compact.png"]
    for name in shown:
        with Image.open(page.parent / name) as picture:
            assert picture.width >= 50
    assert Image.open(page.parent / "panel-compact.png").getpixel((3, 3)) == (0, 0, 128)  # the latest
    assert "25.5 at 20" in text and "0.61 at 20" in text and "best mask_iou" in text
    assert '"seed": 5' in text and "<td>40</td>" in text


def test_losses_are_drawn_over_steps(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    axes = draw_losses([run]).axes
    assert [ax.get_title(loc="left") for ax in axes[:2]] == ["total loss", "MSE"] and len(axes) == 5
    line = axes[1].get_lines()[0]
    assert list(line.get_xdata()) == list(range(1, 41)) and line.get_ydata()[3] == 0.25
    assert axes[1].get_yscale() == "log" and axes[-1].get_yscale() == "linear"


def test_validation_has_the_plain_enlargement_dashed_and_the_best_marked(tmp_path: Path) -> None:
    run, other = (read_run(write_run(tmp_path / name)) for name in ("one", "two"))
    figure = draw_validation([run, other])
    assert figure is not None
    psnr, iou, ocr = figure.axes
    assert [line.get_linestyle() for line in psnr.get_lines()].count("--") == 2
    assert "25.5" in [text.get_text() for text in psnr.texts] and psnr.get_legend() is not None
    assert [text.get_text() for text in ocr.texts] == ["0.61", "0.61"]  # a NaN is not the best
    assert iou.get_title(loc="left") == "mask IoU"
    assert draw_validation([read_run(write_run(tmp_path / "bare", validation=False))]) is None


def test_several_runs_share_one_page(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "full"), write_run(tmp_path / "wo_jsd", validation=False)]
    assert main([*map(str, runs), "-o", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text()
    assert "panel-full.png" in text and "panel-wo_jsd.png" in text and "<h1>full, wo_jsd</h1>" in text


def test_a_run_that_is_going_on_can_be_read(tmp_path: Path) -> None:
    """The last row is only half written; empty cells are no numbers."""
    (tmp_path / "log.csv").write_text("step,mse,dice\n1,0.5,\n2,0.4,0.9\n3,0.")
    curves = read_curves(tmp_path / "log.csv")
    assert curves == {"mse": ([1, 2], [0.5, 0.4]), "dice": ([2], [0.9])}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"has no log\.csv: it is no run"),
        ("step,mse\n", "has no step in it yet"),
        ("step,mse\n1\n2,3\n", "row 1 has not as many cells"),
        ("step,mse\n1,low\n", "row 1 is no row of numbers"),
        ("mse\n1\n", "row 1 is no row of numbers"),
    ],
)
def test_what_is_no_run_is_refused(
    tmp_path: Path, text: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_run(tmp_path)
    assert main([str(tmp_path)]) == 1 and re.search(message, capsys.readouterr().err)


def test_the_running_mean_by_hand() -> None:
    values = [0.0] * 100 + [1.0] * 100
    found = smooth_curve(values)
    assert len(found) == 200 and found[50] == 0 and found[150] == 1 and 0.3 < found[100] < 0.7
    assert found[0] == 0 and found[-1] == 1 and smooth_curve([2.0]) == [2.0]
    assert json.dumps(smooth_curve([1.0, float("nan"), 1.0]))
