"""A folder of image files through a real ComfyUI: names, subfolders, resuming, cancelling, and what cannot be read."""

from __future__ import annotations

import shutil
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from browser import server
from comfy_host import Comfy, Result, node
from PIL import Image

import tadisr
from tadisr.images import read_image


def folder_prompt(source: str, out: str, **inputs: Any) -> dict[str, Any]:
    settings = {
        "scale": 4.0, "format": "png", "skip_existing": True, "write_masks": False, "tile": 768, "overlap": 256,
        "tile_batch": 1, "color": "off", "quality": 95,
    }  # fmt: skip
    return {
        "model": node("TADiSRLoader", model="compact (built in)", dtype="fp32"),
        "up": node(
            "TADiSRUpscaleFolder", model=["model", 0], input_folder=source, output_folder=out, **settings | inputs
        ),
        "report": node("PreviewAny", source=["up", 1]),
    }


def write_images(comfy: Comfy, name: str, count: int) -> Path:
    """Images of mixed sizes, every third one in a subfolder."""
    folder = comfy.base / "input" / name
    shutil.rmtree(folder, ignore_errors=True)
    for i in range(count):
        path = folder / ("" if i % 3 else "deep") / f"scan_{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((24 + i % 5, 16 + i % 4), 50).convert("RGB").save(path)
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def report_of(result: Result) -> str:
    assert result.last == "execution_success", result.error or result.body
    return result.history["outputs"]["report"]["text"][0]


def lines_of(comfy: Comfy, ending: str) -> list[str]:
    return [line for line in comfy.log.read_text().splitlines() if ending in line]


def test_names_subfolders_and_sizes_are_kept_and_new_images_noticed(comfy: Comfy) -> None:
    source = write_images(comfy, "scans", 5)
    (source / "notes.txt").write_text("no image")
    prompt = folder_prompt("scans", "up/scans", write_masks=True)
    report = report_of(comfy.run(prompt))
    assert "5 of 5 images upscaled" in report and "notes.txt" in report
    out = comfy.base / "output" / "up" / "scans"
    expected = {p.relative_to(source).as_posix() for p in source.rglob("*.png")}
    assert files_of(out) == expected | {name.replace(".png", "_mask.png") for name in expected}
    for name in expected:
        small = Image.open(source / name)
        assert Image.open(out / name).size == (4 * small.width, 4 * small.height)
    image = tadisr.upscale(tadisr.load(), read_image(source / "scan_01.png")).image
    assert (read_image(out / "scan_01.png") - image).abs().max() < 1.5 / 255
    assert len(lines_of(comfy, "of 5: ")) == 5

    write_images(comfy, "scans", 6)
    stamps = {name: (out / name).stat().st_mtime_ns for name in expected}
    assert "1 of 1 images upscaled" in (said := report_of(comfy.run(prompt))) and "5 skipped, which exist" in said
    assert stamps == {name: (out / name).stat().st_mtime_ns for name in expected}
    again = report_of(comfy.run(folder_prompt("scans", "up/scans", skip_existing=False, scale=2.0, format="jpg")))
    assert "6 of 6 images upscaled" in again and Image.open(out / "scan_01.jpg").size == (50, 34)


def test_cancel_keeps_what_is_done_and_the_next_run_resumes(comfy: Comfy) -> None:
    source = write_images(comfy, "many", 30)
    out = comfy.base / "output" / "many"
    stopped: list[str] = []

    def stop(kind: str, data: Any) -> None:
        if kind == "progress" and data["node"] == "up" and not stopped and len(list(out.rglob("*.png"))) > 3:
            stopped.append(kind)
            urllib.request.urlopen(urllib.request.Request(comfy.url + "/interrupt", b"{}", method="POST")).read()

    result = comfy.run(folder_prompt("many", "many"), on_event=stop)
    assert stopped and result.last == "execution_interrupted"
    done = files_of(out)
    assert 3 < len(done) < 30 and all(name.endswith(".png") for name in done)
    for name in done:
        Image.open(out / name).load()
    result = comfy.run(folder_prompt("many", "many"))
    left = 30 - len(done)
    assert f"{left} of {left} images upscaled" in (said := report_of(result))
    assert f"{len(done)} skipped, which exist" in said
    assert files_of(out) == files_of(source)
    texts = [text for kind, text in result.events if kind == "text"]
    assert any(text.startswith(f"Image 2 of {left}, ") and text.endswith(" left") for text in texts), texts[:5]


def test_what_cannot_be_read_is_reported_and_names_lead_nowhere_else(comfy: Comfy) -> None:
    source = write_images(comfy, "mixed", 2)
    (source / "broken.png").write_bytes(b"nothing")
    report = report_of(comfy.run(folder_prompt("mixed", "mixed")))
    assert "2 of 3 images upscaled" in report and "broken.png" in report
    for name in ("../input/mixed", "/etc", "C:\\scans", "~", "", ".."):
        assert "expected a folder within" in comfy.run(folder_prompt(name, "mixed")).error, name
        assert "expected a folder within" in comfy.run(folder_prompt("mixed", name)).error, name
    assert (
        "There is no folder 'nothing'" in (said := comfy.run(folder_prompt("nothing", "x")).error) and "mixed" in said
    )
    for path in source.rglob("scan*"):
        path.unlink()
    assert "0 of 1 images upscaled" in comfy.run(folder_prompt("mixed", "failed")).error


@pytest.mark.slow
def test_100_images_resume_after_comfyui_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "host" / "output" / "all"
    prompt = folder_prompt("all", "all")
    comfy = server(tmp_path / "host")
    source = write_images(comfy, "all", 100)
    with comfy:
        comfy.post("/prompt", {"prompt": prompt})
        begun = time.monotonic()
        while len(list(out.rglob("*.png"))) < 30 and time.monotonic() - begun < 120:
            time.sleep(0.02)
        comfy.process.kill()
        comfy.process.wait()
    done = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert 30 <= len(done) < 100
    shutil.rmtree(comfy.base / "models" / "tadisr")
    with Comfy(tmp_path / "host") as again:
        assert len(lines_of(again, "TADiSR: models/tadisr is empty, the built-in compact model is used")) == 1
        left = 100 - len(done)
        assert f"{left} of {left} images upscaled" in report_of(again.run(prompt))
    assert {path.relative_to(out) for path in out.rglob("*.png")} == {
        p.relative_to(source) for p in source.rglob("*.png")
    }
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
