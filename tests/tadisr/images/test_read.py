"""Reading: every kind of file that people have, in its own depth, upright, in sRGB, every frame."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from field_images import RED, camera_exif, display_p3, draw_sign, gradient_16, pixels_of, to_p3
from PIL import Image, ImageCms

from tadisr.errors import ImageError
from tadisr.images.read import Frame, read_frames
from tadisr.images.write import open_writer


def read_one(path: Path) -> Frame:
    (frame,) = read_frames(path)
    return frame


@pytest.mark.parametrize(("name", "within"), [("p3.png", 1), ("p3.jpg", 8), ("p3.tif", 1), ("p3.webp", 20)])
def test_a_profile_becomes_srgb(name: str, within: int, tmp_path: Path) -> None:
    to_p3(draw_sign()).save(tmp_path / name, icc_profile=display_p3(), quality=98)
    frame = read_one(tmp_path / name)
    difference = np.abs(frame.pixels.astype(int) - pixels_of(draw_sign()))
    assert np.median(difference) <= 1 and difference[40:56, 12:44].max() <= within and frame.metadata.profile
    assert np.abs(np.median(frame.pixels[:6, :6], (0, 1)) - RED).max() <= 2


def test_srgb_by_its_profile_stays_to_the_bit(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=profile)
    assert (read_one(tmp_path / "a.png").pixels == noise).all()


def test_a_profile_at_16_bits_and_beside_alpha(tmp_path: Path) -> None:
    deep = pixels_of(to_p3(draw_sign())).astype(np.uint16) * 257
    write_16(tmp_path / "deep.png", deep, display_p3())
    difference = np.abs(read_one(tmp_path / "deep.png").pixels / 257 - pixels_of(draw_sign()))
    assert difference.max() < 2
    clear = to_p3(draw_sign())
    clear.putalpha(77)
    clear.save(tmp_path / "clear.png", icc_profile=display_p3())
    frame = read_one(tmp_path / "clear.png")
    assert np.abs(frame.pixels[..., :3].astype(int) - pixels_of(draw_sign())).max() <= 1
    assert (frame.pixels[..., 3] == 77).all()


def write_16(path: Path, pixels: np.ndarray, profile: bytes = b"") -> None:
    """A 16-bit PNG or TIFF by the project's own writer, which has tests of its own, with any profile."""
    from tadisr.images.metadata import Metadata

    writer = open_writer(path, Metadata(), kind=path.suffix[1:])
    writer.profile = profile
    writer.begin(pixels.shape, np.uint16)
    writer.write(pixels)
    writer.end()
    writer.close()


def test_a_broken_profile_is_said_and_cmyk_needs_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    draw_sign().save(tmp_path / "a.png", icc_profile=b"no profile" * 20)
    with caplog.at_level(logging.WARNING):
        assert (read_one(tmp_path / "a.png").pixels == pixels_of(draw_sign())).all()
    assert "a.png: its ICC profile cannot be used" in caplog.text
    draw_sign().convert("CMYK").save(tmp_path / "c.tif")
    assert np.abs(read_one(tmp_path / "c.tif").pixels.astype(int) - pixels_of(draw_sign())).max() <= 1


def test_grey_stays_grey(tmp_path: Path) -> None:
    sign = draw_sign()
    for name, mode in (("g.jpg", "L"), ("g.png", "L"), ("b.png", "1"), ("b.tif", "1"), ("a.png", "LA"), ("g.gif", "L")):
        sign.convert(mode).save(tmp_path / name)
        pixels = read_one(tmp_path / name).pixels
        if name == "g.gif":  # a palette of greys
            assert (pixels == pixels[..., :1]).all()
        else:
            assert pixels.shape[2] == (2 if mode == "LA" else 1)
            assert np.median(np.abs(pixels[..., 0].astype(int) - np.asarray(sign.convert(mode).convert("L")))) <= 1


def test_grey_with_an_rgb_profile_stays_grey(tmp_path: Path) -> None:
    """Grey with an RGB profile, as some programs write it, stays grey."""
    draw_sign().convert("L").save(tmp_path / "g.png", icc_profile=display_p3())
    assert (
        np.abs(read_one(tmp_path / "g.png").pixels[..., 0].astype(int) - np.asarray(draw_sign().convert("L"))).max()
        <= 1
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_stay_16(suffix: str, channels: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (37, 53, channels), np.uint16)
    write_16(tmp_path / f"a.{suffix}", pixels)
    if (suffix, channels) == ("tif", 2):
        with pytest.raises(ImageError, match="kind that Pillow cannot read"):
            read_one(tmp_path / "a.tif")
    else:
        assert (read_one(tmp_path / f"a.{suffix}").pixels == pixels).all()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
def test_16_bit_grey_by_pillow(compression: str, tmp_path: Path) -> None:
    gradient_16().save(tmp_path / "a.tif", compression=compression)
    gradient_16().save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        assert (read_one(tmp_path / name).pixels[..., 0] == np.asarray(gradient_16())).all()


def test_16_bit_colours_of_other_programs(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 65536, (37, 53, 3), np.uint16)
    for name, options in (
        ("raw", {}),
        ("zip", {"compression": "zlib", "predictor": True}),
        ("big", {"byteorder": ">"}),
    ):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="rgb", **options)
        assert (read_one(tmp_path / f"{name}.tif").pixels == pixels).all(), name
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "cv.png"), pixels[..., ::-1])
    cv2.imwrite(str(tmp_path / "cv.tif"), pixels[..., ::-1])
    for name in ("cv.png", "cv.tif"):
        assert (read_one(tmp_path / name).pixels == pixels).all(), name


def test_numbers_whose_white_is_unknown_get_a_sentence(tmp_path: Path) -> None:
    Image.fromarray(np.full((32, 32), 128, np.int32)).save(tmp_path / "int32.tif")
    with pytest.raises(ImageError, match="32-bit integer pixels, from 128 to 128, and does not say which is white"):
        read_one(tmp_path / "int32.tif")
    Image.fromarray(np.full((8, 8), 128, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ImageError, match="float pixels from 128 to 128, expected 0 to 1"):
        read_one(tmp_path / "float.tif")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "float.tif")
    assert abs(read_one(tmp_path / "float.tif").pixels.mean() / 65535 - 0.5) < 1e-4


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_upright_with_what_the_camera_said(suffix: str, tmp_path: Path) -> None:
    draw_sign().save(tmp_path / f"a.{suffix}", exif=camera_exif(), dpi=(300, 300))
    frame = read_one(tmp_path / f"a.{suffix}")
    assert frame.pixels.shape == (96, 64, 3)
    exif = Image.Exif()
    exif.load(frame.metadata.exif)
    assert dict(exif) | {0x11A: 0, 0x11B: 0, 0x128: 0} == {
        0x112: 1, 0x10F: "Maker", 0x9003: "2024:01:02 03:04:05", 0x11A: 0, 0x11B: 0, 0x128: 0,
    }  # fmt: skip
    assert frame.metadata.dpi == pytest.approx((300, 300), abs=0.01)


def test_every_frame_and_page(tmp_path: Path) -> None:
    colors = [(200, 60, 40), (40, 60, 200), (40, 200, 60)]
    frames = [draw_sign(color) for color in colors]
    for name in ("pages.tif", "anim.gif", "anim.png", "anim.webp"):
        options = {} if name == "pages.tif" else {"duration": 100}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True, **options)
        read = list(read_frames(tmp_path / name))
        assert [(frame.index, frame.count) for frame in read] == [(0, 3), (1, 3), (2, 3)]
        assert [frame.duration for frame in read] == [None if name == "pages.tif" else 100] * 3
        for frame, color in zip(read, colors, strict=True):
            assert np.abs(frame.pixels[2, 2, :3].astype(int) - color).max() <= 4, name
        assert len({frame.pixels.shape for frame in read}) == 1


def test_previews_are_no_pages(tmp_path: Path) -> None:
    """A phone's JPEG with a second image in it is one image; so is a TIFF with a thumbnail."""
    draw_sign().save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[draw_sign().resize((48, 32))])
    assert Image.open(tmp_path / "phone.jpg").format == "MPO"
    assert read_one(tmp_path / "phone.jpg").pixels.shape == (64, 96, 3)
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "thumb.tif") as tiff:
        tiff.write(pixels_of(draw_sign()), photometric="rgb")
        tiff.write(pixels_of(draw_sign())[::2, ::2], photometric="rgb", subfiletype=1)
    assert read_one(tmp_path / "thumb.tif").pixels.shape == (64, 96, 3)


def test_transparency_by_a_single_colour(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), (10, 20, 30))
    image.putpixel((0, 0), (255, 0, 255))
    image.save(tmp_path / "rgb.png", transparency=(255, 0, 255))
    assert read_one(tmp_path / "rgb.png").pixels[0, :2, 3].tolist() == [0, 255]
    image.convert("L").save(tmp_path / "l.png", transparency=image.convert("L").getpixel((0, 0)))
    assert read_one(tmp_path / "l.png").pixels[0, :2].tolist()[0][1] == 0
    Image.fromarray(np.array([[5, 1000]], np.uint16)).save(tmp_path / "deep.png", transparency=5)
    assert read_one(tmp_path / "deep.png").pixels.tolist() == [[[5, 0], [1000, 65535]]]


@pytest.mark.parametrize("mode", ["LAB", "YCbCr", "P", "PA", "RGBX"])
def test_other_modes(mode: str, tmp_path: Path) -> None:
    if mode == "LAB":
        srgb, space = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        lab = ImageCms.profileToProfile(draw_sign(), srgb, space, outputMode="LAB")  # pyright: ignore[reportArgumentType]
        assert lab is not None
        lab.save(tmp_path / "a.tif")
    else:
        base = draw_sign().quantize(256) if mode in ("P", "PA") else draw_sign()
        base.convert(mode).save(tmp_path / "a.tif")
    pixels = read_one(tmp_path / "a.tif").pixels
    assert pixels.shape[2] == (4 if mode == "PA" else 3)
    assert np.median(np.abs(pixels[..., :3].astype(int) - pixels_of(draw_sign()))) <= 3


def test_heic_is_read_or_says_what_it_needs(tmp_path: Path) -> None:
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(ImageError, match="pip install pillow-heif"):
            read_one(tmp_path / "a.heic")
        return
    pillow_heif.from_pillow(draw_sign()).save(str(tmp_path / "a.heic"), quality=95)
    assert np.abs(read_one(tmp_path / "a.heic").pixels[2:6, 2:6].astype(int) - RED).max() <= 8
