"""What other nodes may hand over: images of any shape, kind and value. Each gets an answer or one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import server
from comfy_host import Comfy, Result, node
from PIL import Image

from tadisr.images import read_image

# A pack with two nodes that make what no core node does.
PACK = """
import torch
from comfy_api.latest import ComfyExtension, io

def filled(shape, fill):
    shape = [int(side) for side in shape.split("x")]
    value = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if fill in ("nan", "inf"):
        value.flatten()[value.numel() // 2] = float(fill)
    return {"zeros": value * 0, "wild": value * 9 - 4, "half": value.half()}.get(fill, value)

class Odd(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Odd", inputs=[io.String.Input("shape"), io.String.Input("fill")],
                         outputs=[io.Image.Output("image"), io.Mask.Output("mask")])
    @classmethod
    def execute(cls, shape, fill):
        return io.NodeOutput(filled(shape, fill), filled(shape, fill))

class Pack(ComfyExtension):
    async def get_node_list(self):
        return [Odd]

async def comfy_entrypoint():
    return Pack()
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    base = tmp_path_factory.mktemp("odd")
    host = server(base)
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "odd.py").write_text(PACK)
    with host:
        yield host


def whole(shape: str, fill: str = "noise", **inputs: Any) -> dict[str, Any]:
    """The upscaler and the staged chain on the same image, beside one another."""
    return {
        "odd": node("Odd", shape=shape, fill=fill),
        "model": node("TADiSRLoader", model="compact (built in)", dtype="fp32"),
        "up": node(
            "TADiSRUpscale", image=["odd", 0], model=["model", 0],
            **{"scale": 4.0, "tile": 128, "overlap": 32, "tile_batch": 2, "color": "off"} | inputs,
        ),
        "save": node("SaveImage", images=["up", 0], filename_prefix="odd"),
        "encode": node("TADiSREncode", image=["odd", 0], model=["model", 0], scale=4.0),
        "denoise": node("TADiSRDenoise", latent=["encode", 0], model=["model", 0]),
        "decode": node("TADiSRJointDecode", latent=["denoise", 0], attention=["denoise", 1], model=["model", 0]),
        "staged": node("SaveImage", images=["decode", 0], filename_prefix="staged"),
    }  # fmt: skip


def pictures(host: Comfy, result: Result, name: str) -> list[tuple[int, ...]]:
    assert result.last == "execution_success", result.error or result.body
    return [tuple(read_image(host.output(image)).shape[1:]) for image in result.images(name)]


@pytest.mark.parametrize(
    ("shape", "fill"),
    [
        ("1x1x1x3", "noise"), ("1x1x37x3", "noise"), ("3x9x13x3", "noise"), ("1x11x7x4", "noise"), ("1x8x10x1", "noise"),
        ("1x8x10x2", "noise"), ("1x8x8x3", "wild"), ("1x8x8x3", "half"), ("2x40x5x3", "zeros"),
    ],
)  # fmt: skip
def test_any_image_goes_through(odd: Comfy, shape: str, fill: str) -> None:
    batch, height, width, channels = map(int, shape.split("x"))
    prompt = whole(shape, fill)
    if channels < 3:  # Save Image takes three or four; our nodes give back as many as came in
        for save, source in (("save", "up"), ("staged", "decode")):
            prompt[f"{save}_first"] = node("ImageFromBatch", image=[source, 0], batch_index=0, length=1)
            prompt[save] = node("TADiSRReadText", image=[source, 0], engine="rapidocr", minimum_confidence=0.5)
            prompt[f"{save}_boxes"] = node("SaveImage", images=[save, 2], filename_prefix="grey")
    result = odd.run(prompt)
    for name in ("save", "staged") if channels > 2 else ("save_boxes", "staged_boxes"):
        size = (max(3, channels), 4 * height, 4 * width)
        assert pictures(odd, result, name) == [size] * batch


@pytest.mark.parametrize(
    ("shape", "fill", "message"),
    [
        ("1x8x8x3", "nan", "NaN or infinite values"),
        ("1x8x8x3", "inf", "NaN or infinite values"),
        ("0x8x8x3", "noise", "cannot be upscaled"),
        ("1x8x8x5", "noise", "cannot be upscaled"),
    ],
)
def test_what_is_no_image_gets_one_sentence(odd: Comfy, shape: str, fill: str, message: str) -> None:
    for kept in (("up", "save"), ("encode", "denoise", "decode", "staged")):
        prompt = whole(shape, fill)
        result = odd.run({name: prompt[name] for name in ("odd", "model", *kept)})
        assert message in result.error, kept


@pytest.mark.parametrize(
    ("mask", "fill", "message"),
    [
        ("1x9x13", "zeros", None), ("9x13", "noise", None), ("1x64x64", "zeros", None), ("2x3x3", "noise", None),
        ("3x9x13", "noise", "3 masks for 2 images"), ("1x9x13", "nan", "NaN or infinite values"),
    ],
)  # fmt: skip
def test_masks_of_every_size_and_number(odd: Comfy, mask: str, fill: str, message: str | None) -> None:
    for guided, save in (("up", "save"), ("decode", "staged")):
        prompt = whole("2x9x13x3")
        prompt["mask"] = node("Odd", shape=mask, fill=fill)
        prompt[guided]["inputs"]["mask"] = ["mask", 1]
        keep = ("up", "save") if guided == "up" else ("encode", "denoise", "decode", "staged")
        result = odd.run({name: prompt[name] for name in ("odd", "model", "mask", *keep)})
        if message is None:
            assert pictures(odd, result, save) == [(3, 36, 52)] * 2
        else:
            assert message in result.error, guided


def test_names_do_not_lead_out_of_the_model_folders(odd: Comfy) -> None:
    (odd.base / "secret.safetensors").write_bytes(b"secret")
    for name in ("../../secret.safetensors", str(odd.base / "secret.safetensors"), "..", ""):
        prompt = whole("1x8x8x3")
        prompt["model"]["inputs"]["model"] = name
        assert "There is no model" in odd.run(prompt).error, name


@pytest.mark.parametrize("tile", [128, 256, 384, 448])
def test_the_default_overlap_is_cut_to_what_fits(odd: Comfy, tile: int) -> None:
    prompt = whole("1x8x8x3", tile=tile, overlap=256)
    prompt["tiling"] = node("TADiSRTiling", tile=tile, overlap=256, batch=1, blend="cosine", text_aware=False)
    prompt["tiles"] = node("SaveImage", images=["tiling", 1], filename_prefix="tiles")
    result = odd.run({name: prompt[name] for name in ("odd", "model", "up", "save", "tiling", "tiles")})
    assert pictures(odd, result, "save") == [(3, 32, 32)]
    assert f"The overlap of 256 is more than half a tile of {tile}: it is cut to {tile // 2}." in odd.log.read_text()


def test_load_images_empty_mask_is_no_edit(odd: Comfy) -> None:
    """Its mask of an image without alpha, 64x64 of zeros, changes nothing, and it is said."""
    Image.effect_noise((40, 24), 90).convert("RGB").save(odd.base / "input" / "plain.png")
    images = []
    for masked in (False, True):
        prompt = whole("1x8x8x3")
        prompt["odd"] = node("LoadImage", image="plain.png")
        if masked:
            prompt["up"]["inputs"]["mask"] = prompt["decode"]["inputs"]["mask"] = ["odd", 1]
        result = odd.run(prompt)
        assert result.last == "execution_success", result.error
        images.append([read_image(odd.output(result.images(name)[0])) for name in ("save", "staged")])
    for plain, with_mask in zip(*images, strict=True):
        assert (plain == with_mask).all()
    assert "The mask is the empty one that Load Image gives" in odd.log.read_text()


def test_a_batch_with_transparency_and_a_list_of_mixed_sizes(odd: Comfy) -> None:
    result = odd.run({name: item for name, item in whole("3x9x13x4").items() if name in ("odd", "model", "up", "save")})
    assert pictures(odd, result, "save") == [(4, 36, 52)] * 3
    folder = odd.base / "input" / "mixed"
    folder.mkdir()
    for number, size in enumerate(((12, 8), (30, 20), (7, 33))):
        Image.new("RGB", size, (90, 40 * number, 20)).save(folder / f"{number}.png")
    prompt = whole("1x8x8x3")
    prompt["odd"] = node("LoadImageDataSetFromFolder", folder="mixed")
    result = odd.run({name: prompt[name] for name in ("odd", "model", "up", "save")})
    assert sorted(pictures(odd, result, "save")) == sorted((3, 4 * h, 4 * w) for w, h in ((12, 8), (30, 20), (7, 33)))
