"""The command line: files, folders, globs, failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import ROOT

from tadisr.cli import main
from tadisr.files.plan import make_plan
from tadisr.model import TADiSR
from tadisr.profiling import benchmark


def picture(path: Path, width: int = 12, height: int = 8, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_a_folder_keeps_its_tree_and_passes_over_the_rest(tmp_path: Path) -> None:
    source = tmp_path / "in"
    picture(source / "a.png")
    picture(source / "deep" / "er" / "b.jpg", 20, 5)
    picture(source / "deep" / "grey.tif", 7, 9, "L")
    picture(source / "clear.png", 6, 6, "RGBA")
    (source / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    assert main(["upscale", str(source), "-o", str(out), "--mask"]) == 0
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    expected = ["a", "clear", "deep/er/b", "deep/grey"]
    assert written == sorted([f"{n}.png" for n in expected] + [f"{n}_mask.png" for n in expected])
    assert Image.open(out / "deep/er/b.png").size == (80, 20)
    assert Image.open(out / "deep/er/b_mask.png").mode == "L"
    assert Image.open(out / "clear.png").mode == "RGBA"


def test_one_file_to_one_file_and_scale(tmp_path: Path) -> None:
    source = picture(tmp_path / "a.png")
    options = "--scale 2 --color wavelet --text-aware --fidelity 0.5 --blend linear".split()
    assert main(["upscale", str(source), "-o", str(tmp_path / "b.png"), *options]) == 0
    assert Image.open(tmp_path / "b.png").size == (24, 16)


def test_a_broken_image_fails_and_the_others_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    assert main(["upscale", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.png"]
    said = capsys.readouterr()
    assert "bad.png" in said.err
    assert "1 of 2 images upscaled" in said.out


def test_globs_and_names_that_meet(tmp_path: Path) -> None:
    picture(tmp_path / "x" / "a.png")
    picture(tmp_path / "x" / "a.jpg")
    out = tmp_path / "out"
    jobs = make_plan([str(tmp_path / "x" / "*")], out).jobs
    assert [(job.source.name, job.target.name) for job in jobs] == [("a.jpg", "a.png"), ("a.png", "a.png.png")]


def test_an_image_never_overwrites_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(picture(tmp_path / name)) for name in ("a.png", "a_mask.png")]
    assert main(["upscale", *names, "-o", str(tmp_path / "out"), "--mask"]) == 1
    assert "a_mask.png would be both an image and a map" in capsys.readouterr().err
    assert main(["upscale", *names, "-o", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["upscale", "nowhere.png"], "There is no nowhere.png"),
        (["upscale", "."], "No images in ."),
        (["upscale", "a.png", "--model", "nowhere.safetensors"], "no file nowhere.safetensors"),
        (["upscale", "a.png", "--device", "cuda:99"], "cannot be used"),
        (["info", "a.png"], "not a whole safetensors file"),
    ],
)
def test_wrong_arguments_get_one_sentence(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[1] == "a.png":
        picture(tmp_path / "a.png")
    code = main([*arguments, "-o", "out"] if arguments[0] == "upscale" else arguments)
    error = capsys.readouterr().err
    assert code == 1 and message in error and "Traceback" not in error


def test_tile_settings_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = picture(tmp_path / "a.png")
    assert main(["upscale", str(source), "-o", str(tmp_path / "o"), "--tile", "128", "--overlap", "100"]) == 1
    assert "0 to half the tile" in capsys.readouterr().err


def test_info_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["config"]["name"] == "compact" and len(info["digest"]) == 64 and info["training"]["steps"] > 0


def test_bench_prints_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--size", "64", "--runs", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"encode", "denoise", "project", "decode", "whole", "plain_unet", "plain_vae_decode"} == report[
        "stages"
    ].keys()
    for stage in report["stages"].values():
        assert stage["seconds"] > 0 and stage["gflop"] > 0 and stage["gflop_per_second"] > 0
    whole = sum(report["stages"][name]["gflop"] for name in ("encode", "denoise", "project", "decode"))
    assert report["stages"]["whole"]["gflop"] == pytest.approx(whole)
    assert report["ratios"]["text_attention"] > 0 and report["ratios"]["joint_decoders"] > 1
    assert report["peak_bytes"] > 0


def test_bench_refuses_a_size_that_does_not_fit(compact: TADiSR) -> None:
    from tadisr import ConfigError

    with pytest.raises(ConfigError, match="multiple of 16"):
        benchmark.measure_stages(compact, size=100)


def test_runs_as_a_module_without_network(tmp_path: Path) -> None:
    """From nothing: a fresh process, every connection refused."""
    source = picture(tmp_path / "a.png")
    block = "import socket; socket.socket.connect = lambda *a: (_ for _ in ()).throw(OSError('network'))"
    code = f"{block}; import runpy, sys; sys.argv = ['tadisr', 'upscale', r'{source}', '-o', r'{tmp_path / 'out'}']; "
    code += "runpy.run_module('tadisr', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a.png").is_file()
