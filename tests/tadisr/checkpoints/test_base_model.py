"""Kolors from every file that users have, and the sentence for every file that it is not."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from repository import ROOT
from safetensors.torch import load_file, save_file
from shards import write_shards
from tiny import as_ldm, tiny_kolors_config
from torch import Tensor

from tadisr import CheckpointError, TADiSR, preset
from tadisr.checkpoints.base_model import build_part, load_base
from tadisr.checkpoints.detect import describe_table
from tadisr.checkpoints.key_mapping import map_old_vae_names, map_unet_names, map_vae_names
from tadisr.checkpoints.tensor_index import Table, read_table
from tadisr.config import ModelConfig

FILE = "diffusion_pytorch_model.fp16.safetensors"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def whole(kolors_base: Path) -> TADiSR:
    return load_base(kolors_base, tiny_kolors_config())


def parts_equal(one: TADiSR, other: TADiSR) -> bool:
    return all(
        torch.equal(a, b)
        for part in ("unet", "vae")
        for a, b in zip(one.get_submodule(part).parameters(), other.get_submodule(part).parameters(), strict=True)
    )


# ---- the routes -----------------------------------------------------------------------------------------------------


def test_the_folder_is_what_diffusers_reads(whole: TADiSR, kolors_base: Path) -> None:
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        theirs = kind.from_pretrained(kolors_base, subfolder=part, variant="fp16", torch_dtype=torch.float32)
        ours = whole.get_submodule(part).state_dict()
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.state_dict().items())
    assert not any(tensor.is_meta for tensor in [*whole.parameters(), *whole.buffers()])


def test_a_plain_folder_shards_and_the_parts_own_folders(whole: TADiSR, kolors_base: Path, tmp_path: Path) -> None:
    config = whole.config
    for part in ("unet", "vae"):
        (tmp_path / "plain" / part).mkdir(parents=True)
        shutil.copy(kolors_base / part / FILE, tmp_path / "plain" / part / "diffusion_pytorch_model.safetensors")
        write_shards(tmp_path / "sharded" / part, load_file(kolors_base / part / FILE), variant=".fp16")
    for base, vae in (
        (tmp_path / "plain", None),
        (tmp_path / "sharded", None),
        (kolors_base / "unet", kolors_base / "vae"),
        (tmp_path / "sharded" / "unet", kolors_base),
    ):
        model = load_base(base, config, vae=vae)
        assert parts_equal(model, whole) and model.base_digest == whole.base_digest


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_single_files_of_comfyui(whole: TADiSR, tmp_path: Path, prefix: str) -> None:
    unet, vae = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(as_ldm(whole, "unet", prefix), unet)
    save_file(as_ldm(whole, "vae", "first_stage_model." if prefix else ""), vae)
    assert (
        describe_table(read_table(unet)) == "Kolors' U-Net"
        and describe_table(read_table(vae)) == "a VAE of SDXL's kind"
    )
    model = load_base(unet, whole.config, vae=vae)
    assert parts_equal(model, whole) and model.base_digest == whole.base_digest


def test_single_files_with_diffusers_keys(whole: TADiSR, kolors_base: Path, tmp_path: Path) -> None:
    old = load_file(kolors_base / "vae" / FILE)
    save_file({new: old[name] for name, new in map_old_vae_names(old).items()}, tmp_path / "old_vae.safetensors")
    projection = as_ldm(whole, "unet", "model.diffusion_model.")
    for name in ("encoder_hid_proj.weight", "encoder_hid_proj.bias"):
        projection[name] = projection.pop(f"model.diffusion_model.{name}")
    save_file(projection, tmp_path / "mixed.safetensors")
    for unet in (kolors_base / "unet" / FILE, tmp_path / "mixed.safetensors"):
        assert parts_equal(load_base(unet, whole.config, vae=tmp_path / "old_vae.safetensors"), whole)


def test_the_names_are_diffusers_own_both_ways() -> None:
    """Every key numbered, converted by diffusers, and found again where ours says it is."""
    config = preset("kolors")
    with torch.device("meta"):
        unet, vae = UNet2DConditionModel.from_config(config.unet), AutoencoderKL.from_config(config.vae)
    names = map_unet_names(unet.state_dict(), config.unet)
    assert len(names) == len(set(names.values())) == 1682
    numbered = {name: torch.tensor(i) for i, name in enumerate(names)}
    there = {f"model.diffusion_model.{names[name]}": tensor for name, tensor in numbered.items()}
    back = convert_ldm_unet_checkpoint(there, dict(unet.config))
    assert set(numbered) - set(back) == {"encoder_hid_proj.weight", "encoder_hid_proj.bias"}
    assert all(torch.equal(tensor, numbered[name]) for name, tensor in back.items())

    names = map_vae_names(vae.state_dict(), config.vae)
    numbered = {name: torch.full((1, 1, 1, 1), i) for i, name in enumerate(names)}
    back = convert_ldm_vae_checkpoint({names[name]: tensor for name, tensor in numbered.items()}, dict(vae.config))
    assert back.keys() == numbered.keys() and len(back) == 248
    assert all(int(tensor.flatten()[0]) == int(numbered[name].flatten()[0]) for name, tensor in back.items())


def test_tensors_in_memory_are_a_base_too(whole: TADiSR, kolors_base: Path) -> None:
    held = Table.of(as_ldm(whole, "vae"), "the VAE of the socket")
    assert parts_equal(load_base(kolors_base / "unet", whole.config, vae=held), whole)


# ---- what is no Kolors ----------------------------------------------------------------------------------------------


def sdxl(unet: Tensors) -> Tensors:
    kept = {name: tensor for name, tensor in unet.items() if not name.startswith("encoder_hid_proj")}
    return kept | {"add_embedding.linear_1.weight": torch.zeros(80, 99, dtype=torch.float16)}


def early(unet: Tensors) -> Tensors:
    return {name: tensor for name, tensor in unet.items() if not name.startswith("encoder_hid_proj")}


def sd15(unet: Tensors) -> Tensors:
    kept = {name: tensor for name, tensor in early(unet).items() if not name.startswith("add_embedding")}
    return {name: torch.zeros(len(t), 768) if name.endswith("attn2.to_k.weight") else t for name, t in kept.items()}


def lora(_: Tensors) -> Tensors:
    return {"unet.down_blocks.1.attentions.0.proj_in.lora_A.weight": torch.zeros(4, 4)}


def inpainting(unet: Tensors) -> Tensors:
    return unet | {"conv_in.weight": torch.zeros(20, 9, 3, 3)}


def flux(_: Tensors) -> Tensors:
    return {"double_blocks.0.img_attn.qkv.weight": torch.zeros(4, 4)}


def glm(_: Tensors) -> Tensors:
    return {"transformer.encoder.layers.0.self_attention.query_key_value.weight": torch.zeros(4, 4)}


def one_less(unet: Tensors) -> Tensors:
    return {name: tensor for name, tensor in unet.items() if name != "mid_block.resnets.0.conv1.bias"}


def one_more(unet: Tensors) -> Tensors:
    return unet | {"mid_block.more": torch.zeros(1)}


def other_shape(unet: Tensors) -> Tensors:
    return unet | {"conv_in.bias": torch.zeros(21)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sdxl, "is SDXL's U-Net, expected Kolors' U-Net"),
        (early, "an early Kolors U-Net without encoder_hid_proj.* take a newer one"),
        (sd15, "is Stable Diffusion 1.5's U-Net, expected Kolors' U-Net"),
        (lora, "is a LoRA, expected Kolors' U-Net"),
        (inpainting, r"is Kolors' inpainting U-Net \(9 input channels\)"),
        (flux, "is a diffusion transformer"),
        (glm, "is ChatGLM's text encoder"),
        (one_less, "lacks 1 of 1682 tensors, the first mid_block.resnets.0.conv1.bias"),
        (one_more, "has 1 that do not belong there, the first mid_block.more"),
        (other_shape, r"conv_in.bias is \(21,\), expected \(20,\)"),
        (lambda _: {}, "is empty, expected Kolors' U-Net"),
    ],
)
def test_another_model_is_called_by_its_name(
    whole: TADiSR, kolors_base: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    path = tmp_path / "kolors_unet_fp16.safetensors"  # the name says nothing
    save_file(change(load_file(kolors_base / "unet" / FILE)), path)
    with pytest.raises(CheckpointError, match=message):
        load_base(path, whole.config, vae=kolors_base)


def test_a_vae_for_a_unet_and_none_at_all(whole: TADiSR, kolors_base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a VAE of SDXL's kind, expected Kolors' U-Net"):
        load_base(kolors_base / "vae", whole.config, vae=kolors_base)
    with pytest.raises(CheckpointError, match="is Kolors' U-Net, expected a VAE of SDXL's kind"):
        load_base(kolors_base, whole.config, vae=kolors_base / "unet")
    with pytest.raises(CheckpointError, match=r"brings no VAE: give one, SDXL's sdxl_vae.safetensors"):
        load_base(kolors_base / "unet", whole.config)
    sixteen = {k: v.repeat(1, 4, 1, 1) if k == "decoder.conv_in.weight" else v for k, v in as_ldm(whole, "vae").items()}
    save_file(sixteen, tmp_path / "flux_vae.safetensors")
    with pytest.raises(CheckpointError, match="is a VAE of 16 latent channels, expected a VAE of SDXL's kind"):
        load_base(kolors_base, whole.config, vae=tmp_path / "flux_vae.safetensors")


# ---- dtypes and memory ----------------------------------------------------------------------------------------


def test_a_tensor_that_is_wanted_as_it_is_stays_in_its_file(kolors_base: Path) -> None:
    model = load_base(kolors_base, tiny_kolors_config(), dtype=torch.float16)
    assert {p.dtype for part in ("unet", "vae") for p in model.get_submodule(part).parameters()} == {torch.float16}
    storages = {p.untyped_storage().data_ptr() for p in model.unet.parameters()}
    assert len(storages) < 5  # all of them views of the one mapped file


PEAK = """
import json, re, sys, torch
from tadisr.config import ModelConfig
from tadisr.checkpoints.base_model import build_part, load_part
from tadisr.checkpoints.tensor_index import read_table
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
path, dtype, config = sys.argv[1], getattr(torch, sys.argv[2]), ModelConfig.from_dict(json.loads(sys.argv[3]))
table, compute = read_table(path), torch.bfloat16 if "float8" in sys.argv[2] else dtype
build_part(config, "unet")  # without memory of its own; diffusers is imported here
before = peak()
module, _ = load_part(config, "unet", table, dtype=dtype, compute=compute)
for tensor in module.state_dict().values():
    tensor.flatten().view(torch.uint8)[::4096].sum()  # every page is there
print(peak() - before, sum(t.nbytes for t in module.state_dict().values()))
"""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelConfig]:
    """A U-Net of 146 M random numbers."""
    config = tiny_kolors_config()
    config = dataclasses.replace(config, unet=config.unet | {"block_out_channels": [80, 160, 320]})
    path = tmp_path_factory.mktemp("wide") / "unet.safetensors"
    shapes = {name: tensor.shape for name, tensor in build_part(config, "unet").state_dict().items()}
    save_file({name: torch.full(shape, 0.5, dtype=torch.float16) for name, shape in shapes.items()}, path)
    return path, config


@pytest.mark.skipif(sys.platform != "linux", reason="counts as Linux counts")
@pytest.mark.parametrize("dtype", ["float16", pytest.param("float8_e4m3fn", marks=pytest.mark.slow)])
def test_the_most_that_is_held_is_the_weights(wide: tuple[Path, ModelConfig], dtype: str) -> None:
    """And a little: the largest tensor as it was read, and what any process grows by. Gaps in the heap were 60 MB here."""
    path, config = wide
    command = [sys.executable, "-c", PEAK, str(path), dtype, json.dumps(config.to_dict())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    grown, held = map(int, done.stdout.split())
    assert held == pytest.approx(path.stat().st_size / (2 if "float8" in dtype else 1), rel=0.03)
    assert 0.5 * held < grown < 1.02 * held + 2**25
