"""The pack inside a ComfyUI's own process, without its server: what its memory manager does with our parts.

`python hands.py PACK COMFYUI FOLDER`: FOLDER holds base/ (a tiny Kolors), a.safetensors, b.safetensors, whole.safetensors
(adapters, the last with conv_in trained whole), vae.safetensors (that base's VAE as one file), and cogview4/ with a base/ and
an a.safetensors of its own. Prints JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

PACK, COMFY, FOLDER = map(Path, sys.argv[1:4])
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(COMFY))
import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()
import comfy.model_management as mm  # noqa: E402
import comfy.sd  # noqa: E402
import torch  # noqa: E402
import utils.extra_config  # noqa: E402, F401  (before a package of that name elsewhere)
from safetensors.torch import load_file  # noqa: E402

spec = importlib.util.spec_from_file_location("pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)])
assert spec is not None and spec.loader is not None
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
from pack.nodes.host.model_management import Base  # noqa: E402  # pyright: ignore
from pack.nodes.load import from_socket  # noqa: E402  # pyright: ignore
from pack.tadisr import load  # noqa: E402  # pyright: ignore
from pack.tadisr.checkpoints import adapter  # noqa: E402  # pyright: ignore
from pack.tadisr.checkpoints.base_model import find_base, load_part  # noqa: E402  # pyright: ignore
from pack.tadisr.model.precision import FP8  # noqa: E402  # pyright: ignore

CONFIG = adapter.read_header(FOLDER / "a.safetensors").config
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def base_of(dtype, compute, folder=FOLDER):
    config = adapter.read_header(folder / "a.safetensors").config
    tables = find_base(folder / "base", config, dtype=dtype)
    return Base(tables[config.denoiser], tables["vae"], dtype, compute)


def run(model, **options):
    network = model.bring_in("all", pixels=32 * 32, **options)
    with torch.inference_mode():
        output = network(IMAGE.to(model.load_device))
    return output.image.float(), output.mask_logits.float()


def library(name, dtype, strength=1.0, folder=FOLDER):
    network = load(folder / f"{name}.safetensors", base=folder / "base", dtype=dtype, strength=strength)
    with torch.inference_mode():
        output = network(IMAGE)
    return output.image.float(), output.mask_logits.float()


def apart(one, other):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


def leaves(patcher):
    return [(n, m) for n, m in patcher.model.named_modules() if list(m.parameters(recurse=False))]


class Found(dict):
    def __setitem__(self, key, value):
        print(key, value, flush=True)
        super().__setitem__(key, value)


found = Found()
base = base_of(torch.float32, torch.float32)
a = base.with_adapter(FOLDER / "a.safetensors")
b = base.with_adapter(FOLDER / "b.safetensors", strength=-0.5)
before = base.parts(CONFIG)[0]["unet"].model.inner.mid_block.resnets[0].conv1.weight.clone()
found["fp32"] = [
    apart(run(a), want := library("a", torch.float32)),
    apart(run(b), other := library("b", torch.float32, -0.5)),
    apart(run(a), want),
]
found["differ"] = apart(other, want)
found["shared"] = a.network.unet is b.network.unet and a.network.vae is b.network.vae
mm.unload_all_models()
found["restored"] = torch.equal(before, base.parts(CONFIG)[0]["unet"].model.inner.mid_block.resnets[0].conv1.weight)

# ---- a layer that training kept whole: half of it, with another adapter in between ----
unet = base.parts(CONFIG)[0]["unet"].model.inner
kept = [parameter.clone() for parameter in unet.conv_in.parameters()]
halves = base.with_adapter(FOLDER / "whole.safetensors", strength=0.5)
want, trained = library("whole", torch.float32, 0.5), load_file(FOLDER / "whole.safetensors")
found["whole"] = [apart(run(halves), want)]
for name, own in zip(("weight", "bias"), kept, strict=True):
    middle = (own + trained[f"unet.conv_in.{name}"]) / 2
    found["whole"].append(float((getattr(unet.conv_in, name) - middle).abs().max()))
run(a)
found["whole"].append(max(float((p - own).abs().max()) for p, own in zip(unet.conv_in.parameters(), kept, strict=True)))
found["whole"].append(apart(run(halves), want))
mm.unload_all_models()
found["whole_restored"] = all(torch.equal(p, own) for p, own in zip(unet.conv_in.parameters(), kept, strict=True))
found["whole_differs"] = apart(want, library("whole", torch.float32))

# ---- a card with too little room ----
COGVIEW4 = FOLDER / "cogview4"
small = (("partial", torch.float32, FOLDER), ("partial_fp8", FP8, FOLDER), ("cogview4_fp8", FP8, COGVIEW4))
for name, dtype, folder in small:
    model = base_of(dtype, torch.float32, folder).with_adapter(folder / "a.safetensors")
    stored = {key: tensor.clone() for key, tensor in model.network.denoiser.state_dict().items()}
    want = run(model)
    held = sum(patcher.loaded_size() for patcher in model.patchers.values())
    mm.unload_all_models()
    left, behind = 0, []
    for patcher in model.patchers.values():
        patcher.patch_model(device_to=model.load_device, lowvram_model_memory=patcher.model_size() // 3)
        for key, layer in leaves(patcher):
            moved, cast = getattr(layer, "comfy_patched_weights", False), getattr(layer, "comfy_cast_weights", False)
            left += not moved
            if not moved and not cast:
                behind.append(key)
    with torch.inference_mode():
        output = model.network(IMAGE)
    found[name] = {
        "apart": apart((output.image.float(), output.mask_logits.float()), want),
        "off_the_card": left,
        "neither": sorted(behind),
        "library": apart(want, library("a", dtype, folder=folder)),
        "finite": all(bool(tensor.isfinite().all()) for tensor in want),
    }
    for patcher in model.patchers.values():
        patcher.unpatch_model(patcher.offload_device)
    found[name]["again"] = apart(run(model), want)
    mm.unload_all_models()
    left = sum(patcher.loaded_size() for patcher in model.patchers.values())
    found[name]["held_and_left"] = [held, left, len(mm.current_loaded_models)]
    found[name]["restored"] = all(
        torch.equal(tensor.float(), stored[key].float()) for key, tensor in model.network.denoiser.state_dict().items()
    )

# ---- dtypes ----
for name, dtype, compute in (("bf16", torch.bfloat16, torch.bfloat16), ("fp8", FP8, torch.float32)):
    found[name] = apart(run(base_of(dtype, compute).with_adapter(FOLDER / "a.safetensors")), library("a", dtype))
    mm.unload_all_models()

# ---- what a stage does not need may leave ----
model = base.with_adapter(FOLDER / "a.safetensors")
held = {}
for stage in ("encode", "denoise", "decode"):
    mm.unload_all_models()
    model.bring_in(stage, pixels=32 * 32)
    held[stage] = sorted(part for part, patcher in model.patchers.items() if patcher.loaded_size() > 0)
found["stages"] = held

# ---- a VAE that the host itself has loaded ----
levels = {"ch": 32, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
ends = {"in_channels": 3, "out_ch": 3, "z_channels": 4, "resolution": 256, "double_z": True}
own = comfy.sd.VAE(
    sd=load_file(FOLDER / "vae.safetensors"), config={"params": {"ddconfig": {**levels, **ends}, "embed_dim": 4}}
)
table = find_base(FOLDER / "base" / "unet", CONFIG, vae=from_socket(own))["vae"]
module, digest = load_part(CONFIG, "vae", table, dtype=torch.float32, compute=torch.float32)
found["socket"] = digest == base.parts(CONFIG)[1]["vae"]

# ---- every layer on the card or brought there: on a device without values a layer that stayed behind cannot run ----
meta, alive = torch.device("meta"), []
for dtype, folder in ((torch.float32, FOLDER), (FP8, FOLDER), (FP8, COGVIEW4)):
    model = base_of(dtype, torch.float32, folder).with_adapter(folder / "a.safetensors")
    alive.append(model)  # else the host brings its layers back from the device without values
    for patcher in model.patchers.values():
        patcher.patch_model(device_to=meta, lowvram_model_memory=patcher.model_size() // 3)
    model.network.placed = meta
    with torch.inference_mode():
        output = model.network(IMAGE.to(meta))
    name = f"meta_{model.network.config.name}_{str(dtype).split('.')[1]}"
    found[name] = [str(output.image.device), list(output.mask_logits.shape)]
print("FOUND " + json.dumps(found), flush=True)
os._exit(0)  # the host would bring the layers back from the device without values
