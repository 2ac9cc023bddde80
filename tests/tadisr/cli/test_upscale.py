"""The command on what people have: every row of the field's reports about files and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from field_images import camera_exif, display_p3, draw_logo, draw_sign, draw_sticker, gradient_16, pixels_of, to_p3
from PIL import Image
from tiny import trunk_config

import tadisr.cli.upscale as command
import tadisr.files.upscale as files
from tadisr.checkpoints import adapter
from tadisr.cli import main
from tadisr.images.read import read_frames
from tadisr.model import TADiSR
from tadisr.model.certainty import certainty_map


def upscale(*arguments: object) -> int:
    return main(["upscale", *map(str, arguments)])


def small(path: Path, color: tuple[int, int, int] = (200, 60, 40), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), color).save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def pixels(path: Path) -> np.ndarray:
    return next(read_frames(path)).pixels.astype(int)


@pytest.mark.parametrize("case", ["file", "folder", "link", "mask"])
def test_no_input_is_ever_overwritten(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = small(tmp_path / "in" / "photo.png")
    mask = small(tmp_path / "in" / "photo_mask.png")
    before = photo.read_bytes()
    arguments: list[object] = {
        "file": [photo, "-o", photo.parent],
        "folder": [photo.parent, "-o", photo.parent],
        "link": [photo, "-o", tmp_path / "link.png"],
        "mask": [photo, mask, "-o", photo.parent, "--format", "jpg", "--mask"],
    }[case]
    (tmp_path / "link.png").hardlink_to(photo)
    assert upscale(*arguments) == 2
    error = capsys.readouterr().err
    assert "is an input and would be overwritten" in error and len(error.splitlines()) == 1
    assert photo.read_bytes() == before and sorted(p.name for p in photo.parent.iterdir()) == [
        "photo.png",
        "photo_mask.png",
    ]
    if case == "file":
        assert upscale(*arguments, "--overwrite") == 0
        assert Image.open(photo).size == (48, 32)


def test_a_second_run_leaves_results_out_and_can_skip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(tmp_path / "a.jpg")
    small(tmp_path / "deep" / "b.png")
    for _ in range(2):
        assert upscale(tmp_path, "-o", tmp_path / "out") == 0
        found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert found == {"a.png", "deep/b.png"}
    stamp = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    small(tmp_path / "c.png")
    capsys.readouterr()
    assert upscale(tmp_path, "-o", tmp_path / "out", "--skip-existing") == 0
    assert "1 of 1 images upscaled" in (said := capsys.readouterr().out) and "2 skipped, which exist" in said
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("suffix", ["jpg", "webp", "png", "tiff", "avif"])
def test_one_image_becomes_one_file_of_its_ending(suffix: str, tmp_path: Path) -> None:
    photo = small(tmp_path / "a.png")
    out = tmp_path / f"b.{suffix}"
    assert upscale(photo, "-o", out, "--quality", 80) == 0
    assert out.is_file() and Image.open(out).size == (48, 32)
    assert upscale(photo, "-o", tmp_path / "folder", "--format", {"tiff": "tif"}.get(suffix, suffix)) == 0
    assert len(list((tmp_path / "folder").glob(f"a.{suffix[:3]}*"))) == 1


def test_what_does_not_go_together_gets_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = small(tmp_path / "a.png"), small(tmp_path / "b.png")
    for arguments, message in (
        ([first, second, "-o", tmp_path / "c.jpg"], "is one file, but there are 2 images"),
        ([first, "-o", tmp_path / "c.gif"], "of a format that is not written: choose one of .png, .jpg"),
        ([first, "-o", tmp_path / "c.jpg", "--format", "png"], "ends as jpg, but --format is png"),
        ([first, "-o", tmp_path / "c.jpg", "--quality", 0], "quality is 0, expected 1 to 100"),
    ):
        assert upscale(*arguments) == 2
        assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_profiles_grey_and_16_bits(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    draw_sign().save(source / "base.png")
    to_p3(draw_sign()).save(source / "p3.png", icc_profile=display_p3())
    to_p3(draw_sign()).save(source / "p3w.webp", icc_profile=display_p3(), lossless=True)
    for name in ("grey.jpg", "grey.png"):
        draw_sign().convert("L").save(source / name)
    draw_sign().convert("1").save(source / "bilevel.png")
    gradient_16().save(source / "grad16.png")
    assert upscale(source, "-o", out) == 0
    base = pixels(out / "base.png")
    for name in ("p3.png", "p3w.png"):
        assert np.abs(pixels(out / name) - base).max() <= 2
        assert Image.open(out / name).info["icc_profile"]
    for name in ("grey.png", "grey.png.png", "bilevel.png"):
        assert Image.open(out / name).mode == "L"
    deep = pixels(out / "grad16.png")
    assert next(read_frames(out / "grad16.png")).pixels.dtype == np.uint16
    assert len(np.unique(deep)) > 200 and deep.min() > 19500 and deep.max() < 21500


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_and_dpi(suffix: str, tmp_path: Path) -> None:
    draw_sign().save(tmp_path / f"turned.{suffix}", exif=camera_exif(), dpi=(300, 300))
    for out in ("png", "jpg", "tif"):
        assert upscale(tmp_path / f"turned.{suffix}", "-o", tmp_path / f"out.{out}", "--scale", 2) == 0
        with Image.open(tmp_path / f"out.{out}") as image:
            exif = image.getexif()
            assert image.size == (128, 192) and image.info["dpi"] == pytest.approx((600, 600), rel=1e-3)
            assert (exif[0x112], exif[0x10F], exif[0x9003]) == (1, "Maker", "2024:01:02 03:04:05")


def test_every_frame_and_page_comes_out(tmp_path: Path) -> None:
    colors = [(200, 60, 40), (40, 60, 200), (40, 200, 60)]
    frames = [draw_sign(color) for color in colors]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    for name in ("anim.gif", "anim.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, loop=0)

    def check(*files: Path) -> None:
        read = [frame for file in files for frame in read_frames(file)]
        assert len(read) == 3
        for frame, color in zip(read, colors, strict=True):
            assert (
                frame.pixels.shape[:2] == (256, 384) and np.abs(frame.pixels[8, 8, :3].astype(int) - color).max() <= 12
            )

    out = tmp_path / "out"
    assert upscale(tmp_path / "pages.tif", "-o", out, "--mask") == 0
    check(*(out / f"pages_000{i}.png" for i in (1, 2, 3)))
    assert (out / "pages_0003_mask.png").is_file() and not (out / "pages.png").exists()
    assert upscale(tmp_path / "pages.tif", "-o", out / "all.tif") == 0
    check(out / "all.tif")
    for name in ("anim.gif", "anim.png"):
        for kind in ("png", "webp"):
            assert upscale(tmp_path / name, "-o", out / f"{name}.{kind}") == 0
            check(out / f"{name}.{kind}")
            assert next(read_frames(out / f"{name}.{kind}")).duration == 100
    assert upscale(tmp_path / "anim.gif", "-o", out / "jpegs", "--format", "jpg") == 0
    check(*sorted((out / "jpegs").iterdir()))


def test_transparency(tmp_path: Path) -> None:
    draw_sticker().save(tmp_path / "sticker.png")
    assert upscale(tmp_path / "sticker.png", "-o", tmp_path / "s.png") == 0
    sticker = pixels(tmp_path / "s.png")
    seen = sticker[sticker[..., 3] > 0][:, :3]
    assert np.abs(seen - (250, 220, 60)).max() <= 3
    for ink in (0, 255):
        logo, flat = draw_logo(ink)
        logo.save(tmp_path / "logo.png")
        flat.save(tmp_path / "flat.png")
        assert upscale(tmp_path / "logo.png", tmp_path / "flat.png", "-o", tmp_path / "out", "--mask") == 0
        masks = [pixels(tmp_path / "out" / f"{name}_mask.png") for name in ("logo", "flat")]
        assert masks[1].max() > 127 and np.abs(masks[0] - masks[1]).mean() < 3


def test_integer_tiffs_fail_by_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((32, 32), 128, np.int32)).save(tmp_path / "int32.tif")
    assert upscale(tmp_path / "int32.tif", "-o", tmp_path / "out") == 1
    assert "int32.tif has signed or 32-bit integer pixels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_border_of_white(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    assert upscale(tmp_path / "white.png", "-o", tmp_path / "w.png") == 0
    assert pixels(tmp_path / "w.png").min() >= 254


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_that_cannot_show_the_name(encoding: str, tmp_path: Path) -> None:
    small(tmp_path / "店" / "看板.png")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "tadisr", "upscale", str(tmp_path / "店"), "-o", str(tmp_path / "出")],
        capture_output=True, env=environment, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "出" / "看板.png").is_file() and b"1 of 1" in done.stdout


@pytest.mark.parametrize("length", [240, 251, 255])
def test_long_names(length: int, tmp_path: Path) -> None:
    photo = small(tmp_path / ("n" * (length - 4) + ".jpg"))
    assert upscale(photo, "-o", tmp_path / "out", "--mask", "--compare", "--format", "webp") == 0
    assert len(list((tmp_path / "out").iterdir())) == 3
    wide = small(tmp_path / ("看" * (length // 3 - 2) + ".png"))
    assert upscale(wide, "-o", tmp_path / "wide", "--mask") == 0


def test_what_a_folder_holds_beside_images_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(tmp_path / "in" / "x.jpg")
    (tmp_path / "in" / "._x.jpg").write_bytes(b"\0\5\x16\7")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "y.heic").write_bytes(b"")
    heif = any(p.suffix == ".heic" for p in ()) or __import__("importlib").util.find_spec("pillow_heif")
    code = upscale(tmp_path / "in", "-o", tmp_path / "out")
    said = capsys.readouterr()
    assert "Left out as AppleDouble files: ._x.jpg." in said.out and "notes.txt" in said.out
    if heif:
        assert code == 1 and "y.heic" in said.err
    else:
        assert code == 0 and "HEIC, which needs pillow-heif (pip install pillow-heif): y.heic." in said.out
        assert upscale(tmp_path / "in" / "y.heic", "-o", tmp_path / "out") == 1


def test_brackets_are_names(tmp_path: Path) -> None:
    small(tmp_path / "[set1]" / "a[1].png")
    small(tmp_path / "[set1]" / "b.png")
    for number, text in enumerate(("[set1]", "[set1]/*.png", "[set1]/a[1].png", "[[]set1]/*")):
        out = tmp_path / f"out{number}"
        assert upscale(tmp_path / text, "-o", out) == 0
        assert len(list(out.iterdir())) == (1 if text.endswith("a[1].png") else 2)


def test_json_and_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = small(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"nothing")
    assert upscale(tmp_path / "in", photo, "-o", tmp_path / "out", "--json", "--mask") == 1
    summary = json.loads(capsys.readouterr().out)
    outputs = [str(tmp_path / "out" / "a.png")], [str(tmp_path / "out" / "a_mask.png")]
    assert summary["written"] == [{"input": str(photo), "output": outputs[0], "mask": outputs[1]}]
    assert [failed["input"] for failed in summary["failed"]] == [str(tmp_path / "in" / "bad.png")]
    assert upscale(photo, "-o", tmp_path / "out", "--quiet") == 0
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_a_contact_sheet(tmp_path: Path) -> None:
    draw_sign().save(tmp_path / "a.png")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png", "--compare") == 0
    sheet = np.asarray(Image.open(tmp_path / "b_compare.jpg").convert("RGB")).astype(int)
    assert sheet.shape == (256, 3 * 384 + 16, 3)
    result = pixels(tmp_path / "b.png")
    assert np.abs(sheet[:, 392:776] - result).mean() < 4 and (sheet[:, 386:390] > 240).all()


def test_certainty_is_written_beside_and_onto_the_contact_sheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter.save_checkpoint(TADiSR(trunk_config()), tmp_path / "trunk.safetensors")
    photo = small(tmp_path / "in" / "a.png")
    options = ("--model", tmp_path / "trunk.safetensors", "--certainty", "--compare", "--mask", "--detail", 0.5)
    assert upscale(photo, "-o", tmp_path / "out", *options) == 0
    certainty = Image.open(tmp_path / "out" / "a_certainty.png")
    assert (certainty.mode, certainty.size) == ("L", (48, 32))
    level = round(255 * certainty_map(torch.full((1, 1, 1, 1), -5.0)).item())  # an untrained certainty head is flat
    assert np.abs(np.asarray(certainty).astype(int) - level).max() <= 1
    assert Image.open(tmp_path / "out" / "a_compare.jpg").size == (4 * 48 + 3 * 8, 32)
    assert upscale(photo, "-o", tmp_path / "out2", "--certainty") == 2
    assert "compact model has no certainty output" in capsys.readouterr().err


def test_the_default_overlap_fits_any_tile(tmp_path: Path) -> None:
    photo = small(tmp_path / "a.png")
    assert upscale(photo, "-o", tmp_path / "b.png", "--tile", 128) == 0


def test_the_network_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next image is read and the last one written while one runs: half a second each is not added up."""
    import time

    from tadisr.images.write import PngWriter

    for name in "abcd":
        small(tmp_path / "in" / f"{name}.png")
    read, end, strips = files.read_frames, PngWriter.end, command.upscale_strips

    def slow(call):
        def run(*arguments, **options):
            time.sleep(0.5)
            return call(*arguments, **options)

        return run

    def slow_frames(path):
        time.sleep(0.5)
        yield from read(path)

    monkeypatch.setattr(files, "read_frames", slow_frames)
    monkeypatch.setattr(PngWriter, "end", slow(end))
    monkeypatch.setattr(command, "upscale_strips", slow(strips))
    begun = time.monotonic()
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert time.monotonic() - begun < 5.5  # one after the other: 6 s and the network


def test_an_interrupt_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path / "a.png")

    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(command, "upscale_strips", interrupted)
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "out") == 130
    assert not list((tmp_path / "out").iterdir())


def test_base_is_unchanged(tmp_path: Path) -> None:
    """The command gives what the library gives, to the level."""
    import tadisr
    from tadisr.images import read_image

    draw_sign().save(tmp_path / "a.png")
    assert upscale(tmp_path / "a.png", "-o", tmp_path / "b.png") == 0
    expected = tadisr.upscale(tadisr.load(), read_image(tmp_path / "a.png")).image[0].permute(1, 2, 0)
    assert np.abs(pixels(tmp_path / "b.png") - (expected.numpy() * 255).round()).max() <= 1
    assert pixels_of(draw_sign()).shape == (64, 96, 3)


def test_folders_are_followed_through_links_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(tmp_path / "real" / "sub" / "a.png")
    small(tmp_path / "in" / "b\nc.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    assert upscale(tmp_path / "in", "-o", tmp_path / "out") == 0
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png"))
    assert found == ["b\nc.png", "link/sub/a.png"]
    said = capsys.readouterr().out
    assert "Left out as no files (pipes, devices, links to nothing): gone.png, pipe.png." in said


def test_what_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for given, said in (
        (tmp_path / "pipe.png", "is a pipe or a device, expected a file"),
        ("", "There is no ''"),
        ("-", "There is no -."),
    ):
        assert upscale(given, "-o", tmp_path / "out") == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = small(tmp_path / "a.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    if os.geteuid() == 0:
        closed = Path("/proc/self")  # may not be written to by anybody
    for out, said in (
        (photo / "b.png", "is no folder"),
        (tmp_path / "gone", "is no folder"),
        (closed, "is read-only here"),
    ):
        assert upscale(photo, "-o", out) == 2
        error = capsys.readouterr().err
        assert said in error and str(out) in error.replace(str(photo), str(out)) and len(error.splitlines()) == 1
    with pytest.raises(SystemExit, match="2"):
        upscale(photo, "-o", "")
    assert "it is empty: give a folder or a file" in capsys.readouterr().err


def test_inks_of_16_bits_come_out_in_16(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    inks = np.zeros((8, 12, 4), np.uint16)
    inks[..., 3] = np.linspace(20000, 21000, 12)
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
    assert upscale(tmp_path / "a.tif", "-o", tmp_path / "b.png") == 0
    result = next(read_frames(tmp_path / "b.png")).pixels
    assert result.dtype == np.uint16 and len(np.unique(result)) > 20
