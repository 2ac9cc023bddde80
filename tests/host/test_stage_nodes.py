"""The staged nodes in a real ComfyUI: alone, against the whole upscaler, and chained with the core's nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_host import Comfy, node
from PIL import Image
from tiny import randomize, trunk_config

import tadisr
from tadisr.checkpoints import adapter
from tadisr.images import read_image
from tadisr.inference.tiling import Tiling
from tadisr.model import TADiSR

Prompt = dict[str, Any]


def staged(**scale: float) -> Prompt:
    """The chain of stages on the sample, and the upscaler beside it."""
    return {
        "in": node("LoadImage", image="small.png"),
        "model": node("TADiSRLoader", model="compact (built in)", dtype="fp32"),
        "encode": node("TADiSREncode", image=["in", 0], model=["model", 0], scale=scale.get("scale", 4.0)),
        "denoise": node("TADiSRDenoise", latent=["encode", 0], model=["model", 0]),
        "decode": node(
            "TADiSRJointDecode", latent=["denoise", 0], attention=["denoise", 1], model=["model", 0], guide_strength=1.0
        ),
        "picture": node("SaveImage", images=["decode", 0], filename_prefix="staged"),
        "text": node("MaskToImage", mask=["decode", 1]),
        "mask": node("SaveImage", images=["text", 0], filename_prefix="staged_mask"),
    }


@pytest.fixture(autouse=True)
def small(comfy: Comfy) -> None:
    """A piece of the sample, with sides that are a multiple of nothing."""
    with Image.open(comfy.base / "input" / "sample.png") as sample:
        sample.convert("RGB").crop((40, 60, 141, 127)).save(comfy.base / "input" / "small.png")


def shown(comfy: Comfy, prompt: Prompt, name: str = "picture") -> Any:
    result = comfy.run(prompt)
    assert result.last == "execution_success", result.error or result.body
    return [read_image(comfy.output(image)) for image in result.images(name)]


def test_the_chain_is_the_upscaler_without_its_margin(comfy: Comfy) -> None:
    result = comfy.run(staged(scale=2.5))
    assert result.last == "execution_success", result.error
    image = read_image(comfy.base / "input" / "small.png")[:, :3]
    whole = tadisr.upscale(tadisr.load(), image, scale=2.5, tiling=Tiling(margin=0))
    for name, expected in (("picture", whole.image), ("mask", whole.mask)):
        got = read_image(comfy.output(result.images(name)[0]))[:, : expected.shape[1]]
        assert got.shape[-2:] == expected.shape[-2:] == (168, 252)
        assert (got - expected).abs().max() < 1.5 / 255


def test_the_heat_map_alone_and_over_the_image(comfy: Comfy) -> None:
    prompt = staged()
    options = {"layers": "up", "heads": "0-1", "normalize": "picture", "color_map": "viridis"}
    prompt["map"] = node("TADiSRTextAttention", attention=["denoise", 1], **options)
    prompt["over"] = node("TADiSRTextAttention", attention=["denoise", 1], image=["in", 0], **options)
    prompt["alone"] = node("SaveImage", images=["map", 1], filename_prefix="heat")
    prompt["both"] = node("SaveImage", images=["over", 1], filename_prefix="heat")
    result = comfy.run(prompt)
    assert result.last == "execution_success", result.error
    sizes = [read_image(comfy.output(result.images(name)[0])).shape[-2:] for name in ("alone", "both")]
    assert sizes == [(268, 404), (67, 101)]
    prompt["map"]["inputs"]["heads"] = "first"
    assert "heads is 'first', expected \"all\" or numbers" in comfy.run(prompt).error


def test_a_painted_mask_is_followed(comfy: Comfy) -> None:
    prompt = staged()
    prompt["nothing"] = node("SolidMask", value=0.0, width=96, height=64)
    prompt["decode"]["inputs"]["mask"] = ["nothing", 0]
    (steered,) = shown(comfy, prompt, "mask")
    (plain,) = shown(comfy, staged(), "mask")
    assert steered.mean() < 0.3 * plain.mean()


def test_latents_go_through_the_cores_nodes(comfy: Comfy) -> None:
    """Repeated, one picked, enlarged: the image follows."""
    repeated = staged()
    repeated["repeat"] = node("RepeatLatentBatch", samples=["encode", 0], amount=3)
    repeated["pick"] = node("LatentFromBatch", samples=["repeat", 0], batch_index=1, length=2)
    repeated["denoise"]["inputs"]["latent"] = ["pick", 0]
    first, second = shown(comfy, repeated)
    (plain,) = shown(comfy, staged())
    assert (first - plain).abs().max() < 1.5 / 255 and (second - plain).abs().max() < 1.5 / 255

    larger = staged()
    larger["more"] = node("LatentUpscaleBy", samples=["denoise", 0], upscale_method="bilinear", scale_by=1.5)
    larger["decode"]["inputs"]["latent"] = ["more", 0]
    (picture,) = shown(comfy, larger)
    assert abs(picture.shape[2] - 268 * 1.5) < 12 and abs(picture.shape[3] - 404 * 1.5) < 12


def test_a_latent_of_another_vae_gets_one_sentence(comfy: Comfy) -> None:
    prompt = staged()
    prompt["empty"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    prompt["denoise"]["inputs"]["latent"] = ["empty", 0]
    assert "does not fit the compact model: expected (B, 8, h, w)" in comfy.run(prompt).error
    prompt = staged()
    prompt["flip"] = node("LatentFlip", samples=["encode", 0], flip_method="x-axis: vertically")
    prompt["denoise"]["inputs"]["latent"] = ["flip", 0]
    assert "flipped or turned on its way" in comfy.run(prompt).error
    prompt = staged()
    prompt["crop"] = node("LatentCrop", samples=["denoise", 0], width=64, height=64, x=0, y=0)
    prompt["decode"]["inputs"]["latent"] = ["crop", 0]
    result = comfy.run(prompt)
    assert "cut, joined or sampled anew on its way" in result.error


def test_certainty_and_detail_of_a_model_that_has_them(comfy: Comfy) -> None:
    """From Upscale and from the last stage alike; a model without the output gives an empty mask."""
    torch.manual_seed(0)
    path = comfy.base / "models" / "tadisr" / "trunk.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    adapter.save_checkpoint(randomize(TADiSR(trunk_config())), path)
    prompt = staged()
    prompt["model"]["inputs"]["model"] = path.name
    prompt["decode"]["inputs"]["detail"] = 0.5
    prompt["upscale"] = node(
        "TADiSRUpscale", image=["in", 0], model=["model", 0], scale=4.0, tile=768, overlap=256, tile_batch=1, color="off",
        detail=0.5,
    )  # fmt: skip
    for name in ("decode", "upscale"):
        prompt[f"sure {name}"] = node("MaskToImage", mask=[name, 2])
        prompt[f"certainty {name}"] = node("SaveImage", images=[f"sure {name}", 0], filename_prefix=f"certainty_{name}")
    result = comfy.run(prompt)
    assert result.last == "execution_success", result.error
    image, model = read_image(comfy.base / "input" / "small.png")[:, :3], tadisr.load(path)
    for name, margin in (("decode", 0), ("upscale", 8)):
        expected = tadisr.upscale(model, image, detail=0.5, tiling=Tiling(margin=margin)).certainty
        got = read_image(comfy.output(result.images(f"certainty {name}")[0]))[:, :1]
        assert expected is not None and expected.std() > 0.01 and (got - expected).abs().max() < 1.5 / 255
    prompt["model"]["inputs"]["model"] = "compact (built in)"
    result = comfy.run(prompt)
    assert read_image(comfy.output(result.images("certainty decode")[0])).max() == 0
