"""Files of other programs, written by tifffile, OpenCV or by hand: the right values, or a sentence."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from field_images import display_p3, draw_sign, pixels_of, to_p3
from PIL import Image, ImageCms

from tadisr.errors import ImageError
from tadisr.images.color_spaces import PRIMARIES, make_profile
from tadisr.images.profiles import cmyk_to_srgb_16
from tadisr.images.read import Frame, read_frames

NOISE = np.random.default_rng(0).integers(0, 65536, (32, 48, 4), np.uint16)


def read_one(path: Path) -> Frame:
    (frame,) = read_frames(path)
    return frame


def pack_tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """An uncompressed little-endian grey TIFF of any depth, (h, w) values."""
    height, width = values.shape
    digits = "".join(format(value, f"0{bits}b") for value in values.flatten())
    data = bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    if bits == 16:
        data = values.astype("<u2").tobytes()
    numbers = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
    }
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in numbers.items())
    directory = struct.pack("<H", len(numbers)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<L", 8 + len(data)) + data + directory


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
def test_grey_tiffs_of_any_depth_and_sense(bits: int, photometric: int, tmp_path: Path) -> None:
    """Photometric 0 stores white as 0, as fax machines and scanners do."""
    most = 2**bits - 1
    values = np.arange(32).reshape(4, 8) * most // 31
    (tmp_path / "a.tif").write_bytes(pack_tiff(values, bits, photometric))
    if (bits, photometric) == (12, 0):
        with pytest.raises(ImageError, match="TIFF of a kind that Pillow cannot read"):
            read_one(tmp_path / "a.tif")
        return
    white = 65535 if bits > 8 else 255
    expected = values * white / most
    pixels = read_one(tmp_path / "a.tif").pixels[..., 0]
    assert np.abs(pixels - (expected if photometric else white - expected)).max() <= 1


@pytest.mark.parametrize("most", [255, 1023, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_ppm_of_any_depth(most: int, plain: bool, tmp_path: Path) -> None:
    values = (NOISE[..., :3].astype(np.int64) * most // 65535).astype(np.uint16)
    body = (
        " ".join(map(str, values.flatten())).encode()
        if plain
        else values.astype(">u2" if most > 255 else "u1").tobytes()
    )
    (tmp_path / "a.ppm").write_bytes(b"P%d\n# a comment\n48 32\n%d\n" % (3 if plain else 6, most) + body)
    pixels = read_one(tmp_path / "a.ppm").pixels
    full = 255 if most == 255 else 65535
    assert pixels.dtype.itemsize == (1 if full == 255 else 2) and np.abs(pixels - values * (full / most)).max() <= 0.5
    (tmp_path / "a.ppm").write_bytes(b"P6\n48 32\n65535\n" + b"\0" * 999)
    with pytest.raises(ImageError, match=r"a\.ppm is broken: it has 499 values, expected 4608"):
        read_one(tmp_path / "a.ppm")


@pytest.mark.parametrize("most", [100, 4095, 65535])
def test_pgm_of_any_depth(most: int, tmp_path: Path) -> None:
    values = (NOISE[..., 0].astype(np.int64) * most // 65535).astype(np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5\n48 32\n%d\n" % most + values.astype(">u2" if most > 255 else "u1").tobytes())
    pixels = read_one(tmp_path / "a.pgm").pixels[..., 0]
    assert np.abs(pixels - values * ((65535 if most > 255 else 255) / most)).max() <= 1


def cmyk_profile() -> bytes | None:
    """A CMYK profile of the system, where there is one."""
    found = [*Path("/usr/share/color").rglob("*CMYK*.icc"), *Path("/usr/share/color").rglob("*cmyk*.icc")]
    return found[0].read_bytes() if found else None


def test_16_bit_cmyk(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    light = 1 - NOISE / 65535
    for options in ({}, {"compression": "zlib", "predictor": True}, {"byteorder": ">"}):
        tifffile.imwrite(tmp_path / "a.tif", NOISE, photometric="separated", **options)
        pixels = read_one(tmp_path / "a.tif").pixels
        assert pixels.dtype == np.uint16 and np.abs(pixels / 65535 - light[..., :3] * light[..., 3:]).max() < 1e-4


def test_16_bit_cmyk_by_its_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels that 8 bits have come out as ImageCms has them; those between are interpolated."""

    def ink(image: Image.Image, profile: bytes, name: str) -> Image.Image:
        cyan, magenta, yellow, black = (1 - np.asarray(image).astype(float) / 255).transpose(2, 0, 1)
        colors = np.stack([cyan * black, magenta * black, yellow * black * 0.5 + 0.25], -1)
        return Image.fromarray(np.rint(colors * 255).astype(np.uint8))

    monkeypatch.setattr("tadisr.images.profiles.to_srgb", ink)
    cyan, magenta, yellow, black = (1 - NOISE / 65535).transpose(2, 0, 1)
    expected = np.stack([cyan * black, magenta * black, yellow * black * 0.5 + 0.25], -1)
    assert np.abs(cmyk_to_srgb_16(NOISE, b"profile", "a.tif") / 65535 - expected).max() < 1.5 / 255


@pytest.mark.parametrize("deep", [False, True])
def test_premultiplied_alpha(deep: bool, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.array([[[16384, 8192, 100, 32768], [0, 0, 0, 0]]], np.uint16)
    pixels = pixels if deep else (pixels >> 8).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    found = read_one(tmp_path / "a.tif").pixels
    assert found.dtype == pixels.dtype and found[0, 1, 3] == 0
    most = 65535 if deep else 255
    assert np.abs(found[0, 0, :2] / most - [0.5, 0.25]).max() < (1e-4 if deep else 0.01)


@pytest.mark.parametrize("photometric", ["rgb", "separated"])
def test_channels_that_are_stored_apart(photometric: str, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    planes = np.moveaxis(NOISE[..., : 3 if photometric == "rgb" else 4], 2, 0)
    tifffile.imwrite(tmp_path / "deep.tif", planes, photometric=photometric, planarconfig="separate")
    with pytest.raises(ImageError, match="stores each channel apart"):
        read_one(tmp_path / "deep.tif")
    tifffile.imwrite(tmp_path / "a.tif", (planes[:3] >> 8).astype(np.uint8), photometric="rgb", planarconfig="separate")
    assert (read_one(tmp_path / "a.tif").pixels == NOISE[..., :3] >> 8).all()


def test_signed_bytes_get_a_sentence(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a.tif", NOISE[..., 0].astype(np.int8))
    with pytest.raises(ImageError, match="signed 8-bit pixels and does not say which is white"):
        read_one(tmp_path / "a.tif")


def test_pages_of_mixed_sizes_and_depths(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pixels_of(draw_sign()), photometric="rgb")
        tiff.write(NOISE[..., 0])
        tiff.write(NOISE[:20, :9, :3], photometric="rgb")
    frames = [frame.pixels for frame in read_frames(tmp_path / "a.tif")]
    expected = [pixels_of(draw_sign()), NOISE[..., :1], NOISE[:20, :9, :3]]
    assert all(
        (frame == page).all() and frame.dtype == page.dtype for frame, page in zip(frames, expected, strict=True)
    )


def test_a_fax(tmp_path: Path) -> None:
    bilevel = draw_sign().convert("1")
    for name in ("group3", "group4", "tiff_ccitt"):
        bilevel.save(tmp_path / "a.tif", compression=name, dpi=(204, 98))
        frame = read_one(tmp_path / "a.tif")
        assert (frame.pixels[..., 0] == np.asarray(bilevel.convert("L"))).all()
        assert frame.metadata.resize_metadata((96, 64), (384, 256)).dpi == pytest.approx((816, 392))


def test_bits_that_pillow_does_not_give_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "deep.jp2"), NOISE[..., :3])
    Image.fromarray(NOISE[..., 0]).save(tmp_path / "grey.jp2")
    draw_sign().save(tmp_path / "plain.jp2")
    with caplog.at_level(logging.WARNING):
        assert read_one(tmp_path / "deep.jp2").pixels.dtype == np.uint8
        assert (read_one(tmp_path / "grey.jp2").pixels[..., 0] == NOISE[..., 0]).all()
        read_one(tmp_path / "plain.jp2")
    (said,) = caplog.messages
    assert "deep.jp2 stores 16 bits a channel, of which Pillow decodes 8" in said


def with_chunks(path: Path, image: Image.Image, **chunks: bytes) -> Path:
    """Save a PNG with chunks put in after its header."""
    image.save(path)
    data = path.read_bytes()
    added = b"".join(
        struct.pack(">I", len(body)) + name.encode() + body + struct.pack(">I", zlib.crc32(name.encode() + body))
        for name, body in chunks.items()
    )
    path.write_bytes(data[:33] + added + data[33:])
    return path


P3_CHROMATICITIES = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


@pytest.mark.parametrize(
    ("image", "chunks"),
    [
        (draw_sign, {"gAMA": struct.pack(">I", 45455)}),
        (draw_sign, {"gAMA": struct.pack(">I", 100000), "sRGB": b"\0"}),
        (draw_sign, {"gAMA": struct.pack(">I", 0)}),
        (draw_sign, {"cICP": bytes([1, 13, 0, 1]), "gAMA": struct.pack(">I", 100000)}),
        (lambda: to_p3(draw_sign()), {"gAMA": struct.pack(">I", 45455), "cHRM": P3_CHROMATICITIES}),
        (lambda: to_p3(draw_sign()), {"cICP": bytes([12, 13, 0, 1])}),
    ],
)
def test_png_states_its_colours_by_chunks(
    image: Callable[[], Image.Image], chunks: dict[str, bytes], tmp_path: Path
) -> None:
    pixels = read_one(with_chunks(tmp_path / "a.png", image(), **chunks)).pixels
    assert np.abs(pixels.astype(int) - pixels_of(draw_sign())).max() <= 2


@pytest.mark.parametrize("deep", [False, True])
def test_png_of_linear_light(deep: bool, tmp_path: Path) -> None:
    """gAMA 1: half of the light is level 188 of sRGB."""
    image = Image.fromarray(np.full((4, 4), 32768, np.uint16)) if deep else Image.new("RGB", (4, 4), (128,) * 3)
    pixels = read_one(with_chunks(tmp_path / "a.png", image, gAMA=struct.pack(">I", 100000))).pixels
    assert np.abs(pixels / (257 if deep else 1) - 188).max() <= 1.5


def test_avif_states_its_colours_by_code_points(tmp_path: Path) -> None:
    to_p3(draw_sign()).save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    data = (tmp_path / "a.avif").read_bytes()
    box = data.index(b"colrnclx") + 8
    (tmp_path / "a.avif").write_bytes(data[:box] + struct.pack(">H", 12) + data[box + 2 :])
    difference = np.abs(read_one(tmp_path / "a.avif").pixels.astype(int) - pixels_of(draw_sign()))
    assert difference[40:56, 12:44].max() <= 8 and difference[:6].max() <= 4  # 24 without the conversion


def test_hdr_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_one(with_chunks(tmp_path / "a.png", draw_sign(), cICP=bytes([9, 16, 0, 1])))
    assert "a.png is HDR (PQ): its brightness is taken as of sRGB." in caplog.text


def test_a_made_profile_is_the_known_one() -> None:
    made = make_profile(PRIMARIES[12])
    assert made is not None
    profiles = [ImageCms.ImageCmsProfile(__import__("io").BytesIO(data)) for data in (made, display_p3())]
    to_srgb = [ImageCms.profileToProfile(draw_sign(), profile, ImageCms.createProfile("sRGB")) for profile in profiles]  # pyright: ignore[reportArgumentType]
    assert np.abs(np.asarray(to_srgb[0]).astype(int) - np.asarray(to_srgb[1])).max() <= 1
    assert make_profile((0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3)) is None


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_photoshop_files_give_their_merged_image(layers: int, tmp_path: Path) -> None:
    """A PSD without layers has no frames for Pillow, one with layers as many as those."""
    head = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 2, 2, 8, 3)
    rectangle = struct.pack(">4i", 0, 0, 1, 1)
    record = rectangle + struct.pack(">H", 1) + struct.pack(">hI", 0, 3) + b"8BIMnorm" + bytes([255, 0, 0, 0])
    record += struct.pack(">I", 12) + bytes(8) + b"\1A\0\0"
    body = struct.pack(">h", layers) + record * layers + (struct.pack(">H", 0) + b"\7") * layers
    body += b"\0" * (len(body) % 2)
    section = struct.pack(">I", len(body)) + body + bytes(4) if layers else b""
    merged = bytes(range(0, 120, 10))
    (tmp_path / "a.psd").write_bytes(head + bytes(8) + struct.pack(">I", len(section)) + section + b"\0\0" + merged)
    pixels = read_one(tmp_path / "a.psd").pixels
    assert (pixels == np.frombuffer(merged, np.uint8).reshape(3, 2, 2).transpose(1, 2, 0)).all()


def test_what_a_gif_disposes_of(tmp_path: Path) -> None:
    left, right = (Image.new("RGBA", (40, 30)) for _ in range(2))
    left.paste((255, 0, 0, 255), (0, 0, 20, 30))
    right.paste((0, 255, 0, 255), (20, 0, 40, 30))
    for disposal, kept in ((1, 255), (2, 0)):
        left.save(tmp_path / "a.gif", save_all=True, append_images=[right], duration=100, disposal=disposal)
        first, second = (frame.pixels for frame in read_frames(tmp_path / "a.gif"))
        assert first[5, 5].tolist() == [255, 0, 0, 255] and first[5, 30, 3] == 0
        assert second[5, 30].tolist() == [0, 255, 0, 255] and second[5, 5, 3] == kept


@pytest.mark.parametrize("suffix", ["bmp", "tga", "jp2", "dds", "pcx", "sgi", "ico"])
def test_other_containers(suffix: str, tmp_path: Path) -> None:
    sizes = {"sizes": [(16, 16), (32, 32), (64, 64)]} if suffix == "ico" else {}
    image = draw_sign().resize((64, 64)) if suffix == "ico" else draw_sign()
    image.save(tmp_path / f"a.{suffix}", **sizes)
    assert (read_one(tmp_path / f"a.{suffix}").pixels[..., :3] == pixels_of(image)).all()


def test_palettes_and_grey_of_bmp_and_tga(tmp_path: Path) -> None:
    for name, image in (
        ("pal.bmp", draw_sign().quantize(16)), ("pal.tga", draw_sign().quantize(16)), ("bit.bmp", draw_sign().convert("1")),
        ("grey.tga", draw_sign().convert("L")), ("alpha.tga", draw_sign().convert("LA")),
    ):  # fmt: skip
        image.save(tmp_path / name)
        expected = image.convert({"P": "RGB", "1": "L"}.get(image.mode, image.mode))
        assert (read_one(tmp_path / name).pixels == pixels_of(expected)).all(), name


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "jpg", "avif"])
@pytest.mark.parametrize("orientation", [2, 5, 7])
def test_every_orientation(suffix: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    draw_sign().save(tmp_path / f"a.{suffix}", exif=exif, quality=95)
    turn = {2: Image.Transpose.FLIP_LEFT_RIGHT, 5: Image.Transpose.TRANSPOSE, 7: Image.Transpose.TRANSVERSE}[
        orientation
    ]
    pixels = read_one(tmp_path / f"a.{suffix}").pixels
    expected = pixels_of(draw_sign().transpose(turn))
    assert pixels.shape == expected.shape and np.median(np.abs(pixels.astype(int) - expected)) <= 3


def test_jpegs_of_ink_of_rgb_and_cut_ones(tmp_path: Path) -> None:
    for name, image, options in (("ycck", draw_sign().convert("CMYK"), {}), ("rgb", draw_sign(), {"keep_rgb": True})):
        image.save(tmp_path / f"{name}.jpg", quality=95, **options)
        assert np.abs(read_one(tmp_path / f"{name}.jpg").pixels.astype(int) - pixels_of(draw_sign())).max() <= 16
    draw_sign().save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ImageError, match=r"a\.jpg is broken: image file is truncated"):
        read_one(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(data + bytes(5000))
    assert read_one(tmp_path / "a.jpg").pixels.shape == (64, 96, 3)


def test_a_name_that_says_another_format(tmp_path: Path) -> None:
    draw_sign().save(tmp_path / "a.jpg", format="PNG")
    assert (read_one(tmp_path / "a.jpg").pixels == pixels_of(draw_sign())).all()
    (tmp_path / "b.jpg").write_text("<html>not found", encoding="utf-8")
    with pytest.raises(ImageError, match="no image this program can read"):
        read_one(tmp_path / "b.jpg")


def test_a_page_whose_directory_lacks_its_size(tmp_path: Path) -> None:
    """Pillow raises TypeError. So it was for two of 300 damaged images of tests/hostile."""
    data = pack_tiff(np.zeros((4, 8), np.int64), 8, 1)
    second = struct.pack("<HHHLL", 1, 262, 4, 1, 1) + bytes(4)
    (tmp_path / "a.tif").write_bytes(data[:-4] + struct.pack("<L", len(data)) + second)
    with pytest.raises(ImageError, match=r"a\.tif is broken: Missing dimensions"):
        list(read_frames(tmp_path / "a.tif"))
