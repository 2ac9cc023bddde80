"""Kolors' files in the user's model folders, through the nodes of a real ComfyUI; the image is the library's."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from comfy_host import ROOT, Comfy, location, node
from PIL import Image
from safetensors.torch import save_file
from tiny import as_ldm, randomize, tiny_cogview4_config, tiny_kolors_config, write_base
from torch import Tensor

import tadisr
from tadisr import TADiSR, preset
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.config import LoRAConfig
from tadisr.images import read_image
from tadisr.inference import staged
from tadisr.model.lora import add_lora

TINY = {"tile": 128, "overlap": 32, "tile_batch": 1, "color": "off"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ of a tiny Kolors, its parts as single files, three adapters on it, one with a layer trained whole; CogView4."""
    folder = tmp_path_factory.mktemp("kolors_files")
    torch.manual_seed(0)
    write_base(folder / "base", TADiSR(tiny_kolors_config()))
    for seed, name in enumerate("ab"):
        model = load_base(folder / "base", tiny_kolors_config())
        if name == "a":
            save_file(as_ldm(model, "unet", "model.diffusion_model."), folder / "unet.safetensors")
            save_file(as_ldm(model, "vae"), folder / "vae.safetensors")
        assert model.config.lora is not None
        add_lora(model, model.config.lora)
        adapter.save_checkpoint(randomize(model, seed=seed, scale=0.02), folder / f"{name}.safetensors")
    lora = LoRAConfig(unet_whole=("conv_in",))
    model = load_base(folder / "base", tiny_kolors_config(lora=lora))
    add_lora(model, lora)
    with torch.no_grad():
        for parameter in model.denoiser.get_submodule("conv_in").parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    adapter.save_checkpoint(randomize(model, seed=2, scale=0.02), folder / "whole.safetensors")
    lora = preset("cogview4").lora
    assert lora is not None
    other = tiny_cogview4_config(lora=lora)
    model = load_base(write_base(folder / "cogview4" / "base", TADiSR(other)), other)
    add_lora(model, lora)
    adapter.save_checkpoint(randomize(model, seed=3, scale=0.02), folder / "cogview4" / "a.safetensors")
    return folder


@pytest.fixture
def placed(comfy: Comfy, files: Path) -> Comfy:
    """The files where users have them, and a broken one beside each."""
    for source, target in (
        ("base", "diffusers/KolorsTiny"), ("unet.safetensors", "diffusion_models/kolors_one_file.safetensors"),
        ("vae.safetensors", "vae/sdxl_vae.safetensors"), ("a.safetensors", "tadisr/kolors_a.safetensors"),
        ("b.safetensors", "tadisr/kolors_b.safetensors"),
    ):  # fmt: skip
        path = comfy.base / "models" / target
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.symlink_to(files / source)
        (path.parent / "broken.safetensors").write_bytes(b"half a file")
    Image.effect_noise((17, 11), 60).convert("RGB").save(comfy.base / "input" / "kolors.png")
    return comfy


def chain(unet: str, vae: str = "beside the U-Net", name: str = "kolors_a", **more: Any) -> dict[str, Any]:
    """Upscale on Kolors and an adapter."""
    return {
        "in": node("LoadImage", image="kolors.png"),
        "base": node("TADiSRKolorsLoader", unet=unet, vae=vae, dtype="fp32"),
        "model": node("TADiSRAdapterLoader", base=["base", 0], adapter=f"{name}.safetensors", strength=1.0, **more),
        "up": node("TADiSRUpscale", image=["in", 0], model=["model", 0], scale=4.0, **TINY),
        "out": node("SaveImage", images=["up", 0], filename_prefix="kolors"),
    }


def choices(comfy: Comfy, kind: str, name: str) -> list[str]:
    options = comfy.get(f"/object_info/{kind}")[kind]["input"]["required"][name]
    return options[0] if isinstance(options[0], list) else options[1]["options"]


def test_the_lists_hold_what_fits_and_nothing_else(placed: Comfy) -> None:
    units = choices(placed, "TADiSRKolorsLoader", "unet")
    assert {"diffusers/KolorsTiny", "kolors_one_file.safetensors"} <= set(units)
    assert choices(placed, "TADiSRKolorsLoader", "vae") == ["beside the U-Net", "sdxl_vae.safetensors"]
    adapters = choices(placed, "TADiSRAdapterLoader", "adapter")
    assert {"kolors_a.safetensors", "kolors_b.safetensors"} <= set(adapters)
    assert "broken.safetensors" not in {*units, *adapters}


def staged_image(model: tadisr.TADiSR, image: Tensor) -> Tensor:
    """Run the library's chain of stages, which know no margin around the image."""
    latent, source = staged.encode(model, image)
    latent, attention = staged.denoise(model, latent, source)
    return staged.decode(model, latent, attention).image


def test_every_route_gives_the_librarys_image(placed: Comfy, files: Path) -> None:
    """A folder, single files; two adapters in one run; the staged chain."""
    prompt = chain("diffusers/KolorsTiny")
    prompt["one"] = node(
        "TADiSRKolorsLoader", unet="kolors_one_file.safetensors", vae="sdxl_vae.safetensors", dtype="fp32"
    )
    prompt["b"] = node("TADiSRAdapterLoader", base=["one", 0], adapter="kolors_b.safetensors", strength=-0.5)
    prompt["up_b"] = node("TADiSRUpscale", image=["in", 0], model=["b", 0], scale=4.0, **TINY)
    prompt["out_b"] = node("SaveImage", images=["up_b", 0], filename_prefix="kolors")
    prompt["encode"] = node("TADiSREncode", image=["in", 0], model=["model", 0], scale=4.0)
    prompt["denoise"] = node("TADiSRDenoise", latent=["encode", 0], model=["model", 0])
    prompt["decode"] = node(
        "TADiSRJointDecode", latent=["denoise", 0], attention=["denoise", 1], model=["model", 0], guide_strength=1.0
    )
    prompt["staged"] = node("SaveImage", images=["decode", 0], filename_prefix="kolors")
    result = placed.run(prompt)
    assert result.last == "execution_success", result.error or result.body
    picture = read_image(placed.base / "input" / "kolors.png")
    got = {name: read_image(placed.output(result.images(name)[0])) for name in ("out", "out_b", "staged")}
    for name, file, strength in (("out", "a", 1.0), ("staged", "a", 1.0), ("out_b", "b", -0.5)):
        model = tadisr.load(files / f"{file}.safetensors", base=files / "base", strength=strength)
        expected = staged_image(model, picture) if name == "staged" else tadisr.upscale(model, picture).image
        assert (got[name] - expected).abs().max() < 1.5 / 255, name
    assert (got["out"] - got["out_b"]).abs().max() > 4 / 255
    again = placed.run(prompt)
    assert {"base", "model", "up", "decode"} <= {
        name for kind, data in again.events if kind == "execution_cached" for name in data["nodes"]
    }


def test_wrong_choices_get_one_sentence(placed: Comfy) -> None:
    assert "is a U-Net alone: choose a VAE too" in placed.run(chain("kolors_one_file.safetensors")).error
    prompt = chain("diffusers/KolorsTiny", name="broken")
    result = placed.run(prompt)
    assert "broken.safetensors" in (result.error or str(result.body))


@pytest.mark.slow
def test_in_the_hands_of_the_hosts_memory_manager(files: Path) -> None:
    """LoRA as the host's patches, a card with too little room, dtypes, and what each stage keeps."""
    host, python = location()
    command = [python, str(Path(__file__).with_name("hands.py")), str(ROOT), str(host), str(files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.rsplit("FOUND ", 1)[1])
    assert max(found["fp32"]) < 1e-5 and found["differ"] > 1e-2
    assert found["shared"] and found["restored"] and found["socket"]
    assert max(found["whole"]) < 1e-5 and found["whole_restored"] and found["whole_differs"] > 1e-2
    own = re.compile(r"inner\.(prompt|text_attention|decoder\.interactions\.\d\.(image|text))")  # follow by themselves
    for name in ("partial", "partial_fp8", "cogview4_fp8"):
        small = found[name]
        assert small["off_the_card"] > 100 and small["finite"] and small["restored"]
        assert all(own.fullmatch(layer) for layer in small["neither"])
        assert small["apart"] < 1e-5 and small["again"] < 1e-5 and small["library"] < 1e-4
        held, left, models = small["held_and_left"]
        assert held > 0 and left == models == 0
    assert found["bf16"] < 0.05 and found["fp8"] < 1e-4
    assert found["stages"] == {"encode": ["vae"], "denoise": ["added", "unet"], "decode": ["added", "vae"]}
    assert {name: size[0] for name, size in found.items() if name.startswith("meta_")} == dict.fromkeys(
        ("meta_kolors_float32", "meta_kolors_float8_e4m3fn", "meta_cogview4_float8_e4m3fn"), "meta"
    )
