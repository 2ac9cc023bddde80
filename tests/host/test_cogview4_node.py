"""A CogView4 folder as a base in a real ComfyUI: the imported release on it, end to end, the command line's image."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import released
import torch
from comfy_host import Comfy, Result, node
from tiny import tiny_cogview4_config

from tadisr import TADiSR, preset
from tadisr.checkpoints import adapter
from tadisr.checkpoints.release_import import read_release
from tadisr.cli import main
from tadisr.images import read_image, write_png
from tadisr.prompt import EncodedPrompt


@pytest.fixture(scope="module")
def files(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The base's folder and the imported adapter in the model folders, and an image in the inputs."""
    torch.manual_seed(0)
    real, small = preset("cogview4-release"), tiny_cogview4_config()
    config = dataclasses.replace(
        real, transformer=small.transformer, vae=small.vae, prompt=small.prompt,
        decoder=dataclasses.replace(real.decoder, text_channels=small.decoder.text_channels),
    )  # fmt: skip
    models = comfy.base / "models"
    base = models / "diffusers" / "CogView4-tiny"  # as published: bf16, the transformer in shards, no variant
    frozen = TADiSR(config).bfloat16()
    frozen.denoiser.save_pretrained(base / "transformer", max_shard_size="60KB")
    frozen.vae.save_pretrained(base / "vae")
    assert len(list((base / "transformer").glob("diffusion_pytorch_model-*-of-*.safetensors"))) > 1
    pickle = tmp_path_factory.mktemp("release") / "release.pkl"
    released.save(pickle, config, *released.pieces(config))
    prompt = EncodedPrompt(
        embedding=torch.randn(1, 16, small.prompt.width), pooled=None, mask=torch.ones(16, dtype=torch.int64),
        positions=torch.tensor([15]), text=config.prompt.text, word="text",
    )  # fmt: skip
    prompt.save(models / "tadisr" / "cogview4_text.safetensors")
    file = models / "tadisr" / "cogview4_release.safetensors"
    for path, given in ((file, prompt), (file.with_name("cogview4_silent.safetensors"), None)):
        found = read_release(pickle, prompt=given, config=config)
        adapter.write_checkpoint(
            path, found.config, found.tensors, base={"name": found.config.name}, training=found.record
        )
    picture = comfy.base / "input" / "cogview4.png"
    write_png(picture, torch.rand(1, 3, 16, 24))
    return base, file, picture


@pytest.mark.parametrize("dtype", ["fp32", pytest.param("fp8", marks=pytest.mark.slow)])
def test_the_release_runs_on_a_cogview4_folder(
    comfy: Comfy, files: tuple[Path, Path, Path], tmp_path: Path, dtype: str
) -> None:
    """By the loader of both and by two loaders: the command line's image."""
    base, file, picture = files
    there = ["--model", str(file), "--base", str(base), "--dtype", dtype]
    assert main(["upscale", str(picture), "-o", str(tmp_path / "out.png"), *there]) == 0
    expected = read_image(tmp_path / "out.png")
    bases = {"base": node("TADiSRKolorsLoader", unet=f"diffusers/{base.name}", vae="beside the U-Net", dtype=dtype)}
    loaders = [
        {"model": node("TADiSRLoader", model=file.name, dtype=dtype, base=base.name)},
        bases | {"model": node("TADiSRAdapterLoader", base=["base", 0], adapter=file.name, strength=1.0)},
    ]
    for loader in loaders:
        result = run(comfy, picture, loader)
        assert result.last == "execution_success", result.error or result.body
        got = read_image(comfy.output(result.images("saved")[0]))
        assert got.shape == expected.shape == (1, 3, 64, 96) and got.std() > 0.01
        assert (got - expected).abs().max() < 1.5 / 255


def test_a_release_without_a_prompt_takes_one_at_the_adapter_loader(
    comfy: Comfy, files: tuple[Path, Path, Path]
) -> None:
    base, file, picture = files
    bases = {"base": node("TADiSRKolorsLoader", unet=f"diffusers/{base.name}", vae="beside the U-Net", dtype="fp32")}

    def loader(name: str, **prompt: Any) -> dict[str, Any]:
        return bases | {"model": node("TADiSRAdapterLoader", base=["base", 0], adapter=name, strength=1.0, **prompt)}

    silent = "cogview4_silent.safetensors"
    assert "carries no prompt" in run(comfy, picture, loader(silent)).error
    prompt = {"prompt": node("TADiSRLoadPrompt", prompt_file="cogview4_text.safetensors")}
    results = [
        run(comfy, picture, prompt | loader(silent, prompt=["prompt", 0])),
        run(comfy, picture, loader(file.name)),
    ]
    given, carried = (read_image(comfy.output(result.images("saved")[0])) for result in results)
    assert torch.equal(given, carried)


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
