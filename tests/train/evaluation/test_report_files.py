"""What a report writes: tables, intervals, the page, CSV files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from small_evaluation import rows

from train.evaluate import main, read_report
from train.evaluation import markup, paper, tables

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")


def test_missing_backbones_are_named(report: Path) -> None:
    from train.evaluation.backbones import locate_inception
    from train.losses import lpips_backbone_file

    if lpips_backbone_file("alex").is_file() or locate_inception().is_file():
        pytest.skip("this machine has the backbones")
    for row in rows(report).values():
        assert row["lpips"] == f"backbone missing: {lpips_backbone_file('alex')}"
        assert row["fid"] == f"backbone missing: {locate_inception()}"
    assert "backbone missing: alexnet-owt-7be5be79.pth" in (report / "report.md").read_text()


def test_intervals_differences_and_buckets(report: Path) -> None:
    found = rows(report)
    for row in found.values():
        low, high = row["interval"]["psnr"]
        assert low <= row["psnr"] <= high
    value, low, high = found["finished"]["difference"]["psnr"]  # to the first row
    assert (
        value == pytest.approx(found["finished"]["psnr"] - found["compact"]["psnr"], abs=1e-5) and low <= value <= high
    )
    assert found["compact"]["difference"]["ocr_a"] == [0, 0, 0]
    by = found["finished"]["by"]
    assert sum(bucket["lines"] for bucket in by["size"].values()) == 3
    assert by["language"]["Latin"]["lines"] == 3 and by["orientation"]["level"]["ocr_a"] < 1
    assert sum(bucket["pictures"] for bucket in by["degradation"].values()) == 3


def test_results_stand_in_the_papers_tables(report: Path, tmp_path: Path) -> None:
    """Its layout and figures, the best of each column bold, ours below theirs of the same name, two reports in one table."""
    data = read_report(report)
    text = (report / "report.md").read_text()
    assert "| TADiSR (paper) | **25.49** | **0.736** | **0.152** | **32.13** | **0.662** | **24.02** |" in text
    assert "| w/o MF Loss (paper) | 25.28 | 0.729 | 0.160 | 32.73 | 0.629 |" in text
    assert f"{data['data']['name']} is not the paper's data" in text
    for table in text.split("## ")[2:-2]:  # the engine and its models' digest are in every table
        assert data["engines"][0] in table, table
    ftsr = data | {"data": data["data"] | {"name": "FTSR-TE"}}
    other = json.loads(json.dumps(ftsr))
    other["data"]["name"] = "Real-CE-val"
    for one, value in ((ftsr, 98.0), (other, 99.0)):
        one["rows"] = [dict(one["rows"][0], name="ours", psnr=value), dict(one["rows"][1], name="RealESRGAN_x4plus")]
    table = tables.make_table_1([ftsr, other])
    names = [row[0].text for row in table.rows]
    assert names[:2] == ["R-ESRGAN (paper)", "RealESRGAN_x4plus"] and names[-2:] == ["TADiSR (paper)", "ours"]
    assert [cell.text for cell in table.rows[-1]][1::5] == ["98.00", "99.00"] and table.rows[-1][1].bold
    assert table.groups == [("", 1), ("FTSR-TE", 5), ("Real-CE-val", 5)]
    assert {len(row) for row in table.rows} == {11}
    tex = markup.format_latex(table)
    assert r"\multicolumn{5}{c}{FTSR-TE}" in tex and r"\textbf{98.00}" in tex and r"RealESRGAN\_x4plus" in tex
    assert tex.count(r"\\") == len(table.rows) + 2 and r"PSNR $\uparrow$" in tex
    assert (
        paper.find_paper_name("w/o JSD", paper.NAMES_2) == "w/o JSD"
        and paper.find_paper_name("compact", paper.NAMES_1) is None
    )


def test_the_page_shows_the_worst_first(report: Path) -> None:
    text = (report / "report.html").read_text()
    shown = re.findall(r'src="(crops/[^"]+)"', text)
    assert shown and all((report / name).is_file() for name in shown)
    scores = [[float(s) for s in found.split()] for found in re.findall(r'data-scores="([^"]+)"', text)]
    assert scores and all(len(found) == 5 for found in scores)
    ours = [found[0] for found in scores if found[0] < 1]
    assert ours == sorted(ours)
    assert "CLOSER" in text and "CLOSED" in text and "rapidocr" in text


def test_the_csv_files_hold_every_image_and_line(report: Path) -> None:
    with (report / "pictures.csv").open() as file:
        pictures = list(csv.DictReader(file))
    assert len(pictures) == 15 and {row["picture"] for row in pictures} == {"0", "1", "2"}
    with (report / "lines.csv").open() as file:
        read = [row for row in csv.DictReader(file) if row["method"] == "finished"]
    assert [(row["hr"], row["read"]) for row in read if row["strict"] != "1"] == [("CLOSED", "CLOSER")]


def test_degradations_of_the_folders_own(data: Path, tmp_path: Path) -> None:
    for part in ("hr", "lr"):
        (tmp_path / part).symlink_to(data / part)
    words = {"0.png": "light", "1.png": "heavy", "2.png": "light"}
    (tmp_path / "degradation.json").write_text(json.dumps(words))
    arguments = ["--data", str(tmp_path), "--model", "none", "--baseline", "bicubic", "--engine", "none"]
    assert main([*arguments, "-o", str(tmp_path / "report")]) == 0
    by = rows(tmp_path / "report")["bicubic"]["by"]["degradation"]
    assert {name: bucket["pictures"] for name, bucket in by.items()} == {"heavy": 1, "light": 2}
