"""A CogView4 folder as a base in a real ComfyUI: the imported release on it, end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import released
import torch
from comfy_host import Comfy, Result, node
from tiny import tiny_cogview4_config, write_base

from tadisr import TADiSR, adapter, load, preset, upscale
from tadisr.image import read_image, write_png
from tadisr.prompt import EncodedPrompt
from tadisr.release.read import read_release


def test_the_release_runs_on_a_cogview4_folder(comfy: Comfy, tmp_path: Path) -> None:
    torch.manual_seed(0)
    real, small = preset("cogview4-release"), tiny_cogview4_config()
    config = dataclasses.replace(
        real, transformer=small.transformer, vae=small.vae, prompt=small.prompt,
        decoder=dataclasses.replace(real.decoder, text_channels=small.decoder.text_channels),
    )  # fmt: skip
    models = comfy.base / "models"
    base = write_base(models / "diffusers" / "CogView4-tiny", TADiSR(config))
    pickle = released.save(tmp_path / "release.pkl", config, *released.pieces(config))
    prompt = EncodedPrompt(
        embedding=torch.randn(1, 16, small.prompt.width), pooled=None, mask=torch.ones(16, dtype=torch.int64),
        positions=torch.tensor([15]), text=config.prompt.text, word="text",
    )  # fmt: skip
    found = read_release(pickle, prompt=prompt, config=config)
    file = models / "tadisr" / "cogview4_release.safetensors"
    adapter.write(file, found.config, found.tensors, base={"name": found.config.name}, training=found.record)

    picture = comfy.base / "input" / "cogview4.png"
    write_png(picture, torch.rand(1, 3, 16, 24))
    bases = {"base": node("TADiSRKolorsLoader", unet="diffusers/CogView4-tiny", vae="beside the U-Net", dtype="fp32")}
    loaders = [
        {"model": node("TADiSRLoader", model=file.name, dtype="fp32", base="CogView4-tiny")},
        bases | {"model": node("TADiSRAdapterLoader", base=["base", 0], adapter=file.name, strength=1.0)},
    ]
    expected = upscale(load(file, base=base), read_image(picture)).image
    for loader in loaders:
        result = run(comfy, picture, loader)
        assert result.last == "execution_success", result.error or result.body
        got = read_image(comfy.output(result.images("saved")[0]))
        assert got.shape == expected.shape == (1, 3, 64, 96)
        assert (got - expected).abs().max() < 1.5 / 255


def run(comfy: Comfy, picture: Path, loader: dict[str, Any]) -> Result:
    return comfy.run(
        loader
        | {
            "picture": node("LoadImage", image=picture.name),
            "upscaled": node(
                "TADiSRUpscale", image=["picture", 0], model=["model", 0], scale=4.0, tile=768, overlap=256, tile_batch=1,
                color="off", fidelity=0.0,
            ),
            "saved": node("SaveImage", images=["upscaled", 0], filename_prefix="cogview4"),
        }
    )  # fmt: skip
