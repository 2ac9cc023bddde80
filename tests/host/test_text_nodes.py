"""The text nodes in a real ComfyUI, with real PP-OCR: read, compare, composite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from comfy_host import Comfy, node
from PIL import Image, ImageDraw, ImageFont

from tadisr.images import read_image

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")


def sign(comfy: Comfy, name: str, *lines: str, size: tuple[int, int] = (420, 140)) -> dict[str, Any]:
    picture = Image.new("RGB", size, "white")
    for i, text in enumerate(lines):
        ImageDraw.Draw(picture).text((24, 14 + 60 * i), text, fill="black", font=ImageFont.load_default(36))
    picture.save(comfy.base / "input" / name)
    return node("LoadImage", image=name)


def test_text_is_read_as_string_json_boxes_and_mask(comfy: Comfy) -> None:
    prompt = {
        "in": sign(comfy, "sign.png", "Opening 9:30", "CLOSED"),
        "read": node("TADiSRReadText", image=["in", 0], engine="rapidocr", minimum_confidence=0.5),
        "text": node("PreviewAny", source=["read", 0]),
        "json": node("PreviewAny", source=["read", 1]),
        "boxes": node("SaveImage", images=["read", 2], filename_prefix="read"),
        "mask": node("MaskToImage", mask=["read", 3]),
        "saved": node("SaveImage", images=["mask", 0], filename_prefix="read"),
    }
    result = comfy.run(prompt)
    assert result.last == "execution_success", result.error or result.body
    outputs = result.history["outputs"]
    assert outputs["text"]["text"] == ["Opening 9:30\nCLOSED"]
    ((first, second),) = json.loads(outputs["json"]["text"][0])
    assert first["text"] == "Opening 9:30" and second["score"] > 0.8 and len(second["box"]) == 4
    mask = read_image(comfy.output(result.images("saved")[0]))
    assert mask.shape[-2:] == (140, 420) and 0.1 < mask.mean() < 0.6


def test_changed_lines_are_reported(comfy: Comfy) -> None:
    prompt = {
        "a": sign(comfy, "before.png", "Opening 9:30", "CLOSED"),
        "b": sign(comfy, "after.png", "Opening 9:80", "CLOSED"),
        "compare": node("TADiSRCompareText", before=["a", 0], after=["b", 0], engine="auto"),
        "score": node("PreviewAny", source=["compare", 0]),
        "report": node("PreviewAny", source=["compare", 1]),
        "marked": node("SaveImage", images=["compare", 2], filename_prefix="compare"),
    }
    result = comfy.run(prompt)
    assert result.last == "execution_success", result.error or result.body
    outputs = result.history["outputs"]
    assert 0.9 < float(outputs["score"]["text"][0]) < 1
    assert "Opening 9:30  ->  Opening 9:80" in outputs["report"]["text"][0]
    marked = read_image(comfy.output(result.images("marked")[0]))
    red = (marked[0, 0] > 0.8) & (marked[0, 1] < 0.3)
    assert red[:60].any() and not red[75:].any()
    prompt["two"] = node("ImageBatch", image1=["a", 0], image2=["a", 0])
    prompt["compare"]["inputs"]["before"] = ["two", 0]
    assert "There are 2 images before and 1 after" in comfy.run(prompt).error
    prompt["compare"]["inputs"]["before"] = ["tall", 0]
    prompt["tall"] = node("EmptyImage", width=32, height=256, batch_size=1, color=0)
    assert "The image before is 32x256, the image after" in comfy.run(prompt).error


def test_the_nodes_ocr_a_is_that_of_train_evaluate(comfy: Comfy, tmp_path: Path) -> None:
    """The same two images, judged in ComfyUI and by the command: the same figure."""
    from train.evaluate import main

    before = sign(comfy, "truth.png", "Opening 9:30", "CLOSED", size=(420, 160))
    after = sign(comfy, "result.png", "Opening 9:80", "CLOSER", size=(420, 160))
    prompt = {
        "a": before,
        "b": after,
        "compare": node("TADiSRCompareText", before=["a", 0], after=["b", 0], engine="rapidocr"),
        "score": node("PreviewAny", source=["compare", 0]),
        "report": node("PreviewAny", source=["compare", 1]),
    }
    result = comfy.run(prompt)
    assert result.last == "execution_success", result.error or result.body
    outputs = result.history["outputs"]
    for part, name in (("hr", "truth"), ("lr", "truth"), ("results", "result")):
        (tmp_path / part).mkdir()
        shutil.copy(comfy.base / "input" / f"{name}.png", tmp_path / part / "sign.png")
    arguments = ["--data", str(tmp_path), "--model", "none", "--results", str(tmp_path / "results")]
    assert main([*arguments, "--engine", "rapidocr", "-o", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (row,) = report["rows"]
    assert float(outputs["score"]["text"][0]) == pytest.approx(row["ocr_a"], abs=1e-6)
    assert row["ocr_a"] == pytest.approx(((24 - 1) / 24 + (12 - 1) / 12) / 2, abs=1e-6)
    head = outputs["report"]["text"][0].splitlines()[0]
    assert (
        head.startswith(f"OCR-A {row['ocr_a']:.3f} (strict {row['ocr_a_strict']:.3f})") and report["engines"][0] in head
    )


def test_text_from_one_image_the_rest_from_another(comfy: Comfy) -> None:
    prompt = {
        "a": sign(comfy, "text.png", "TEXT", size=(200, 100)),
        "rest": node("EmptyImage", width=100, height=50, batch_size=1, color=255),  # blue
        "half": node("SolidMask", value=1.0, width=100, height=100),
        "none": node("SolidMask", value=0.0, width=200, height=100),
        "mask": node(
            "MaskComposite", destination=["none", 0], source=["half", 0], x=0, y=0, operation="add"
        ),
        "all": node(
            "TADiSRTextComposite", text_image=["a", 0], rest_image=["rest", 0], mask=["mask", 0], grow=0, feather=0.0,
            threshold=0.5,
        ),
        "out": node("SaveImage", images=["all", 0], filename_prefix="composite"),
    }  # fmt: skip
    result = comfy.run(prompt)
    assert result.last == "execution_success", result.error or result.body
    picture = read_image(comfy.output(result.images("out")[0]))
    assert picture.shape == (1, 3, 100, 200)
    text = read_image(comfy.base / "input" / "text.png")
    assert (picture[..., :98] - text[..., :98]).abs().max() < 2 / 255
    assert picture[0, 2, :, 102:].min() > 0.99 and picture[0, 0, :, 102:].max() < 0.01
