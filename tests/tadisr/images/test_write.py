"""Writing: formats by name, strips as good as the whole, metadata, whole files or none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from field_images import camera_exif, draw_sign, pixels_of
from PIL import Image

from tadisr.errors import ConfigError, ImageError
from tadisr.images.metadata import Metadata
from tadisr.images.profiles import make_srgb_profile
from tadisr.images.read import read_frames
from tadisr.images.write import FORMATS, check_size, find_format, open_writer, to_levels


def write(path: Path, *pages: np.ndarray, metadata: Metadata = Metadata(), step: int = 7, **options: Any) -> Path:
    """Write pages in strips of `step` rows."""
    kind = find_format(path)
    assert kind is not None
    animated = options.get("animated", False)
    writer = open_writer(path, metadata, kind=kind, pages=len(pages), **options)
    for page in pages:
        writer.begin(page.shape, page.dtype.type, duration=120 if animated else None)
        for top in range(0, len(page), step):
            writer.write(page[top : top + step])
        writer.end()
    writer.close()
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_give_the_whole(suffix: str, channels: int, dtype: type, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (43, 31, channels), dtype)
    noise[10:30] = np.arange(31, dtype=dtype)[:, None] * 7  # rows that filters make short
    write(tmp_path / f"a.{suffix}", noise)
    if channels != 2 or dtype == np.uint8:
        (frame,) = read_frames(tmp_path / f"a.{suffix}")
        assert (frame.pixels == noise).all() and frame.pixels.dtype == dtype
    if channels != 2 and (suffix, channels, dtype) != ("tif", 4, np.uint8):  # which OpenCV multiplies by alpha
        other = cv2.imread(str(tmp_path / f"a.{suffix}"), cv2.IMREAD_UNCHANGED).reshape(43, 31, channels)
        order = [2, 1, 0, 3][:channels] if channels > 2 else [0]
        assert (other[..., order] == noise).all()


def test_a_png_is_about_as_small_as_pillows(tmp_path: Path) -> None:
    sample = pixels_of(Image.open(Path(__file__).parents[3] / "sample" / "sample.png").convert("RGB"))
    own = write(tmp_path / "own.png", sample, step=100).stat().st_size
    buffer = io.BytesIO()
    Image.fromarray(sample).save(buffer, format="PNG")
    assert own < 1.05 * len(buffer.getvalue())


def test_pages_and_a_big_tiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [np.full((30 + i, 20, 3), 50 * i, np.uint8) for i in range(3)]
    for limit in (2**32, 0):
        monkeypatch.setattr("tadisr.images.strips.BIG", limit)
        monkeypatch.setattr("tadisr.images.strips.TIFF_STRIP", 500)
        exif = camera_exif()
        exif[0x112] = 1
        metadata = Metadata(exif=exif.tobytes(), dpi=(240, 240))
        write(tmp_path / "pages.tif", *pages, metadata=metadata)
        assert (tmp_path / "pages.tif").read_bytes()[2] == (43 if limit == 0 else 42)
        read = list(read_frames(tmp_path / "pages.tif"))
        assert [frame.pixels.shape for frame in read] == [page.shape for page in pages]
        assert all((frame.pixels == page).all() for frame, page in zip(read, pages, strict=True))
        with Image.open(tmp_path / "pages.tif") as image:
            assert image.getexif()[0x10F] == "Maker" and image.info["dpi"] == (240, 240)


@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
def test_animations_keep_frames_and_durations(suffix: str, tmp_path: Path) -> None:
    frames = [pixels_of(draw_sign(color)) for color in ((200, 60, 40), (40, 60, 200), (40, 200, 60))]
    write(tmp_path / f"a.{suffix}", *frames, animated=True)
    read = list(read_frames(tmp_path / f"a.{suffix}"))
    assert [frame.duration for frame in read] == [120] * 3
    for frame, expected in zip(read, frames, strict=True):
        assert np.abs(frame.pixels[:5, :5, :3].astype(int) - expected[:5, :5]).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp", "a.avif"])
def test_metadata_goes_into_every_format(name: str, tmp_path: Path) -> None:
    exif = camera_exif()
    exif[0x112] = 1
    exif[0x8769] = {0x829A: 0.01, 0xA002: 96, 0xA003: 64}  # exposure time, width, height
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"></x:xmpmeta>'
    metadata = Metadata(exif=exif.tobytes(), xmp=xmp, dpi=(300, 300), profile=True, text={"Title": "a sign"})
    write(tmp_path / name, pixels_of(draw_sign()), metadata=metadata.resize_metadata((96, 64), (384, 256)))
    with Image.open(tmp_path / name) as image:
        image.load()
        tags = image.getexif()
        assert (tags.get(0x112, 1), tags[0x10F], tags[0x9003]) == (1, "Maker", "2024:01:02 03:04:05")
        inner = tags.get_ifd(0x8769)
        assert (inner[0xA002], inner[0xA003], float(inner[0x829A])) == (384, 256, 0.01)
        assert image.info["icc_profile"] == make_srgb_profile() == make_srgb_profile()
        if name not in ("a.webp", "a.avif"):  # which have no resolution of their own
            assert image.info["dpi"] == pytest.approx((1200, 1200), rel=1e-4)
        if name == "a.png":
            assert image.text["Title"] == "a sign"  # pyright: ignore[reportAttributeAccessIssue]
    (frame,) = read_frames(tmp_path / name)
    assert frame.metadata.xmp == xmp


def test_quality_sets_the_size_and_webp_is_lossless(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert (next(read_frames(write(tmp_path / "a.webp", noise))).pixels == noise).all()  # lossless
    for suffix in ("jpg", "webp", "avif"):
        low = write(tmp_path / f"low.{suffix}", noise, quality=20).stat().st_size
        assert low < 0.6 * write(tmp_path / f"high.{suffix}", noise, quality=95).stat().st_size
    for quality in (0, 101):
        with pytest.raises(ConfigError, match=f"quality is {quality}, expected 1 to 100"):
            write(tmp_path / "a.jpg", noise, quality=quality)
    with pytest.raises(ConfigError, match="png, jpg, webp, tif, avif"):
        open_writer(tmp_path / "a.bmp", Metadata(), kind="bmp")


def test_jpeg_lays_transparency_on_white(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8, :, 3] = 255
    (frame,) = read_frames(write(tmp_path / "a.jpg", pixels))
    assert frame.pixels[2, 2].max() <= 2 and frame.pixels[13, 2].min() >= 253
    assert "laid on white" in caplog.text


def test_formats_end_somewhere() -> None:
    assert [find_format(Path(f"a.{suffix}")) for suffix in ("JPG", "tiff", "webp", "gif", "")] == [
        "jpg", "tif", "webp", None, None,
    ]  # fmt: skip
    for kind, side in (("jpg", 65501), ("webp", 16384)):
        with pytest.raises(ImageError, match="choose PNG or TIFF"):
            check_size(Path("a"), kind, 8, side)
        check_size(Path("a"), kind, FORMATS[kind].limit, 8)


def test_whole_or_not_at_all_under_a_short_name(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 251 + ".png")
    write(path, np.zeros((4, 4, 1), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    writer = open_writer(tmp_path / "b.png", Metadata(), kind="png")
    writer.begin((4, 4, 1), np.uint8)
    writer.abandon()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_levels_are_rounded_and_clamped() -> None:
    values = np.array([-1, 0, 0.5, 1, 2], np.float32)
    assert to_levels(values, np.uint8).tolist() == [0, 0, 128, 255, 255]
    assert to_levels(values, np.uint16).tolist() == [0, 0, 32768, 65535, 65535]


def test_a_format_that_this_pillow_lacks_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF", raising=False)
    with pytest.raises(ConfigError, match=r"this Pillow cannot write AVIF \(AVIF: since 11\.3\)"):
        open_writer(tmp_path / "a.avif", Metadata(), kind="avif")
    assert not list(tmp_path.iterdir())
