"""The text guard with a real PP-OCR: what reads differently comes back, what reads alike stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from tadisr import ocr
from tadisr.cli import main
from tadisr.images import from_pil, resize_image, to_pil
from tadisr.inference.text_guard import SHARES, guard_text
from tadisr.inference.tiling import Tiling
from tadisr.inference.upscale import upscale
from tadisr.inference.upscale_strips import upscale_strips
from tadisr.model import TADiSR

pytest.importorskip("rapidocr", reason="reading text needs the extra ocr: pip install -e '.[ocr]'")


@pytest.fixture(scope="module")
def rapid() -> ocr.Reader:
    return ocr.open_reader("rapidocr")


def page(*lines: str) -> torch.Tensor:
    picture = Image.new("RGB", (420, 200), "white")
    for i, text in enumerate(lines):
        ImageDraw.Draw(picture).text((24, 20 + 60 * i), text, fill="black", font=ImageFont.load_default(36))
    return from_pil(picture)[0]


def test_only_lines_that_read_differently_are_blended_back(rapid: ocr.Reader) -> None:
    enlarged, image = page("OLD STREET", "BOOKS 42", "OPEN"), page("OLD STREET", "B0DKS 47", "OPEN")
    image = (image + 0.02 * torch.rand_like(image)).clamp(0, 1)
    before = image.clone()
    lines = guard_text(image, enlarged, rapid)
    assert [(line.line.text, line.read, line.share > 0) for line in lines] == [
        ("OLD STREET", "OLD STREET", False),
        ("BOOKS 42", "B0DKS 47", True),
        ("OPEN", "OPEN", False),
    ]
    assert lines[1].share in (*SHARES, 1.0)
    assert [line.text for line in rapid.read(image[None])] == ["OLD STREET", "BOOKS 42", "OPEN"]
    assert torch.equal(image[:, :66], before[:, :66]) and torch.equal(image[:, 140:], before[:, 140:])


def test_grey_and_lines_at_the_border(rapid: ocr.Reader) -> None:
    enlarged, image = (page(text).mean(0, keepdim=True)[:, 22:62, 20:200].contiguous() for text in ("CAFE", "CARE"))
    assert guard_text(image, enlarged, rapid)[0].share > 0
    assert rapid.read(image.expand(3, -1, -1)[None])[0].text == "CAFE"


class Miswriting(TADiSR):
    """A network that draws another word than the input has."""

    drawn: torch.Tensor

    def forward(self, image: torch.Tensor, guide: torch.Tensor | None = None):
        output = super().forward(image, guide)
        return type(output)(
            resize_image(self.drawn[None], (image.shape[2], image.shape[3])), *list(vars(output).values())[1:]
        )


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_upscale_puts_back_what_the_network_miswrites(compact: TADiSR, rapid: ocr.Reader, mode: str) -> None:
    lr = resize_image(page("BOOKS")[None], (52, 108))
    model = Miswriting(compact.config)
    model.load_state_dict(compact.state_dict())
    model.eval().drawn = page("BANKS")
    image = from_pil(to_pil(lr).convert(mode)).contiguous()
    said: list[str] = []
    options = {"tiling": Tiling(margin=0), "text_guard": rapid, "say": said.append}
    result = upscale(model, image, **options)
    assert [line.text for line in rapid.read(result.image[:, :3].expand(1, 3, -1, -1))] == ["BOOKS"]
    assert said == [f"Text guard by {rapid.label}: 1 of 1 lines were blended back to the enlargement."]
    strips = torch.cat([strip.pixels for strip in upscale_strips(model, image, **options)])
    torch.testing.assert_close(strips.permute(2, 0, 1), result.image[0])


def test_the_command_names_the_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to_pil(resize_image(page("BOOKS")[None], (52, 108))).save(tmp_path / "a.png")
    assert main(["upscale", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--text-guard", "rapidocr"]) == 0
    assert "Text guard by rapidocr" in capsys.readouterr().err
