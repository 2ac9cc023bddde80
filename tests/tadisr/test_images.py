"""Images in and out: every kind of file, resizing by windows, padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tadisr import ImageError
from tadisr.images import output_size, pad_to_multiple, read_image, resize_image, to_pil, write_png
from tadisr.images.resample import as_float, resize_window, shrink_image

RAMP = np.tile(np.linspace(0, 255, 20, dtype=np.uint8), (10, 1))


MODES = {"png": "1 L P RGB I;16 LA RGBA", "tiff": "1 L P RGB CMYK YCbCr I;16 LA RGBA PA"}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes.split()])
def test_every_mode_reads(kind: str, mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(RAMP)
    picture = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    path = tmp_path / f"a.{kind}"
    picture.save(path)
    got = read_image(path)
    assert got.shape == (1, 4 if "A" in mode else 3, 10, 20)
    assert got.dtype == torch.float32
    expected = torch.from_numpy(RAMP / 255).float()
    if mode != "1":
        assert (got[0, 0] - expected).abs().max() < 0.02


def test_16_bits_are_not_cut_to_8(tmp_path: Path) -> None:
    values = np.array([[0, 1, 256, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    torch.testing.assert_close(read_image(tmp_path / "deep.png")[0, 0, 0], torch.from_numpy(values[0] / 65535).float())


def test_palette_transparency_and_exif(tmp_path: Path) -> None:
    palette = Image.fromarray(RAMP).convert("P")
    palette.save(tmp_path / "p.gif", transparency=0)
    assert read_image(tmp_path / "p.gif").shape[1] == 4
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(RAMP).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape[-2:] == (20, 10)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_broken_files_are_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"broken\.png"):
        read_image(path)


def test_truncated_and_missing_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ImageError, match="is broken"):
        read_image(path)
    with pytest.raises(ImageError, match=r"nothing\.png"):
        read_image(tmp_path / "nothing.png")


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(RAMP).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(ImageError, match="too large"):
        read_image(tmp_path / "large.png")


def test_png_round_trip(tmp_path: Path) -> None:
    for channels in (1, 3, 4):
        image = torch.randint(0, 256, (1, channels, 5, 7)) / 255
        write_png(tmp_path / "x.png", image)
        got = read_image(tmp_path / "x.png")
        torch.testing.assert_close(got[:, : image.shape[1]], image, atol=1e-6, rtol=0)
    assert to_pil(torch.full((3, 2, 2), 2.0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(120, 164), (75, 100), (30, 41), (11, 41), (1, 1)])
def test_a_window_of_the_resized_image_is_made_from_itself_alone(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    levels = torch.randint(0, 65536, (3, 30, 41)).to(torch.uint16)
    whole = resize_image(as_float(levels)[None], size)[0]
    for rows in ((0, size[0]), (0, 1), (size[0] // 3, size[0] // 3 + 1), (size[0] - 1, size[0])):
        found = resize_window(levels, size, rows, (size[1] // 4, size[1]))
        torch.testing.assert_close(found, whole[:, slice(*rows), size[1] // 4 :], atol=1e-5, rtol=0)
    beyond = resize_window(levels, size, (-2, size[0] + 1), (-3, size[1] + 4))
    repeated = torch.nn.functional.pad(whole[None], (3, 4, 2, 1), mode="replicate")[0]
    torch.testing.assert_close(beyond, repeated, atol=1e-5, rtol=0)
    torch.testing.assert_close(shrink_image(levels, size), whole, atol=1e-5, rtol=0)


def test_padding_and_sizes() -> None:
    assert pad_to_multiple(torch.rand(1, 3, 1, 33), 16).shape == (1, 3, 16, 48)
    assert pad_to_multiple(torch.rand(1, 3, 32, 16), 16).shape == (1, 3, 32, 16)
    assert output_size(10, 3, 1.5) == (15, 4)
    assert output_size(1, 1, 1) == (1, 1)
