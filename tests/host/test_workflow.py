"""The shipped workflow through the HTTP API of a real ComfyUI."""

from __future__ import annotations

import copy
import json
import re
import shutil
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import pytest
import torch
from comfy_host import ROOT, Comfy, node
from PIL import Image
from tiny import randomize, tiny_kolors_config, write_base

import tadisr
from tadisr import TADiSR
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.config import LoRAConfig
from tadisr.images import read_image
from tadisr.model.lora import add_lora

# What a saved workflow relies on: node id -> category, required inputs, optional inputs, outputs. Only ever add at the end.
PROMISES: dict[str, tuple[str, str, str, str]] = {
    "TADiSRLoader": ("TADiSR", "model dtype", "base", "TADISR_MODEL UPSCALE_MODEL"),
    "TADiSRUpscale": (
        "TADiSR",
        "image model scale tile overlap tile_batch color",
        "tiling mask fidelity detail text_guard resize_to target_size",
        "IMAGE MASK MASK",
    ),
    "TADiSRUpscaleFolder": (
        "TADiSR",
        "input_folder output_folder model scale format skip_existing write_masks tile overlap tile_batch color quality",
        "tiling fidelity detail",
        "STRING STRING",
    ),
    "TADiSRTiling": ("TADiSR", "tile overlap batch blend text_aware", "image model", "TADISR_TILING IMAGE"),
    "TADiSRKolorsLoader": ("TADiSR", "unet vae dtype", "host_vae", "TADISR_BASE"),
    "TADiSRAdapterLoader": ("TADiSR", "base adapter strength", "prompt", "TADISR_MODEL UPSCALE_MODEL"),
    "TADiSREncodePrompt": ("TADiSR", "text_encoder prompt word name", "overwrite", "TADISR_PROMPT"),
    "TADiSRLoadPrompt": ("TADiSR", "prompt_file", "", "TADISR_PROMPT"),
    "TADiSREncode": ("TADiSR/stages", "image model scale", "", "LATENT"),
    "TADiSRDenoise": ("TADiSR/stages", "latent model", "prompt", "LATENT TADISR_ATTENTION"),
    "TADiSRTextAttention": ("TADiSR/stages", "attention layers heads normalize color_map", "image", "MASK IMAGE"),
    "TADiSRJointDecode": ("TADiSR/stages", "latent attention model", "mask guide_strength detail", "IMAGE MASK MASK"),
    "TADiSRTextComposite": ("TADiSR/text", "text_image rest_image mask grow feather threshold", "", "IMAGE"),
    "TADiSREditMask": ("TADiSR/text", "mask painted operation", "", "MASK"),
    "TADiSRReadText": ("TADiSR/text", "image engine minimum_confidence", "", "STRING STRING IMAGE MASK"),
    "TADiSRCompareText": ("TADiSR/text", "before after engine", "minimum_confidence", "FLOAT STRING IMAGE MASK"),
}


@pytest.mark.parametrize("name", PROMISES)
def test_ids_and_names_are_promises_and_every_socket_explains_itself(comfy: Comfy, name: str) -> None:
    info = comfy.get(f"/object_info/{name}")[name]
    order = info["input_order"]
    names = [" ".join(order.get(kind, [])) for kind in ("required", "optional")]
    assert (info["category"], *names, " ".join(info["output"])) == PROMISES[name]
    assert info["description"] and info["display_name"] and all(info["output_tooltips"])
    for kind in ("required", "optional"):
        for socket, spec in info["input"].get(kind, {}).items():
            assert spec[1].get("tooltip"), socket


def test_the_pack_loads_and_has_no_node_without_a_promise(comfy: Comfy) -> None:
    """Nothing is missing here, so that the log has no line about it; a page without aliases searches display names."""
    log = comfy.log.read_text()
    failed = [line for line in log.splitlines() if "IMPORT FAILED" in line and "tadisr" in line]
    assert not failed and "models/tadisr is empty" not in log
    assert "Super Resolution" in comfy.get("/object_info/TADiSRUpscale")["TADiSRUpscale"]["display_name"]
    assert {name for name in comfy.get("/object_info") if name.startswith("TADiSR")} == set(PROMISES)


def test_the_shipped_workflow_gives_the_librarys_result(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """Image and mask are the library's own, byte for byte; the bar moves with the tiles."""
    result = comfy.run(with_inputs(prompt, tile_batch=2))  # what an earlier test has run would come from the cache
    assert result.last == "execution_success", result.error
    (picture,), (mask,) = (result.images(node) for node in ("4", "6"))
    expected = tadisr.upscale(tadisr.load(), read_image(ROOT / "sample" / "sample.png")[:, :3])
    got = read_image(comfy.output(picture))
    assert got.shape == expected.image.shape == (1, 3, 960, 1280)
    assert (got - expected.image).abs().max() < 2 / 255
    assert (read_image(comfy.output(mask))[:, :1] - expected.mask).abs().max() < 2 / 255
    steps = [(d["value"], d["max"]) for kind, d in result.events if kind == "progress" and d["node"] == "3"]
    assert steps == [(2, 4), (4, 4)]
    assert [kind for kind, _ in result.events].count("preview") == 2  # of both steps: the last one stays on the node


def with_inputs(prompt: dict[str, Any], **inputs: Any) -> dict[str, Any]:
    changed = copy.deepcopy(prompt)
    changed["3"]["inputs"] |= inputs
    return changed


def test_a_batch_keeps_its_order_and_scale_2(comfy: Comfy, prompt: dict[str, Any]) -> None:
    colors = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    changed = with_inputs(prompt, scale=2.0, tile_batch=2, color="wavelet")
    for i, color in enumerate(colors):
        Image.new("RGB", (33, 21), color).save(comfy.base / "input" / f"plain{i}.png")
        changed[f"in{i}"] = {"class_type": "LoadImage", "inputs": {"image": f"plain{i}.png"}}
    changed["two"] = {"class_type": "ImageBatch", "inputs": {"image1": ["in0", 0], "image2": ["in1", 0]}}
    changed["three"] = {"class_type": "ImageBatch", "inputs": {"image1": ["two", 0], "image2": ["in2", 0]}}
    changed["3"]["inputs"]["image"] = ["three", 0]
    result = comfy.run(changed)
    assert result.last == "execution_success", result.error
    pictures = [read_image(comfy.output(image)) for image in result.images("4")]
    assert len(pictures) == 3 and len(result.images("6")) == 3
    for picture, color in zip(pictures, colors, strict=True):
        assert picture.shape == (1, 3, 42, 66)
        assert (picture.mean((0, 2, 3)) - torch.tensor(color) / 255).abs().max() < 0.03


def test_alpha_goes_through(comfy: Comfy, prompt: dict[str, Any]) -> None:
    pixels = np.full((16, 24, 4), 128, np.uint8)
    pixels[:, :12, 3] = 255
    Image.fromarray(pixels).save(comfy.base / "input" / "clear.png")
    changed = with_inputs(prompt)
    changed["1"]["inputs"]["image"] = "clear.png"
    changed["invert"] = {"class_type": "InvertMask", "inputs": {"mask": ["1", 1]}}
    changed["join"] = {"class_type": "JoinImageWithAlpha", "inputs": {"image": ["1", 0], "alpha": ["1", 1]}}
    changed["3"]["inputs"]["image"] = ["join", 0]
    result = comfy.run(changed)
    assert result.last == "execution_success", result.error
    picture = read_image(comfy.output(result.images("4")[0]))
    assert picture.shape == (1, 4, 64, 96)
    assert picture[0, 3, :, :40].min() > 0.98 and picture[0, 3, :, 60:].max() < 0.52


@pytest.mark.parametrize(
    ("inputs", "message"),
    [({"scale": 9.0}, "Value 9.0 bigger than max"), ({"tile": -10}, "Value -10 smaller than min")],
)
def test_numbers_out_of_range_are_refused(
    comfy: Comfy, prompt: dict[str, Any], inputs: dict[str, Any], message: str
) -> None:
    result = comfy.run(with_inputs(prompt, **inputs))
    assert result.status == 400
    assert message in str(result.body["node_errors"]["3"])


def test_wrong_settings_and_files_get_one_sentence(comfy: Comfy, prompt: dict[str, Any]) -> None:
    result = comfy.run(with_inputs(prompt, color="hsv"))
    assert "color" in (result.error or str(result.body))
    missing = copy.deepcopy(prompt)
    missing["2"]["inputs"]["model"] = "nothing.safetensors"
    result = comfy.run(missing)
    assert "nothing.safetensors" in (result.error or str(result.body))


def test_models_of_the_users_folder_are_listed_loaded_and_checked(comfy: Comfy, prompt: dict[str, Any]) -> None:
    folder = comfy.base / "models" / "tadisr"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tadisr.COMPACT, folder / "mine.safetensors")
    (folder / "broken.safetensors").write_bytes(b"half a file")
    options = comfy.get("/object_info/TADiSRLoader")["TADiSRLoader"]["input"]["required"]["model"]
    listed = options[0] if isinstance(options[0], list) else options[1]["options"]
    assert {"mine.safetensors", "broken.safetensors"} < set(listed)
    Image.new("RGB", (8, 8)).save(comfy.base / "input" / "small.png")
    changed = with_inputs(prompt)
    changed["1"]["inputs"]["image"] = "small.png"
    changed["2"]["inputs"]["model"] = "mine.safetensors"
    assert comfy.run(changed).last == "execution_success"
    changed["2"]["inputs"]["model"] = "broken.safetensors"
    assert "not a whole safetensors file" in comfy.run(changed).error


def test_an_adapter_on_its_base(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """Kolors' layout at tiny widths, as a diffusers folder and an adapter in the user's model folders."""
    torch.manual_seed(3)
    model = TADiSR(tiny_kolors_config())
    write_base(comfy.base / "models" / "diffusers" / "TinyKolors", model)
    model = load_base(comfy.base / "models" / "diffusers" / "TinyKolors", model.config)
    add_lora(model, LoRAConfig())
    adapter.save_checkpoint(randomize(model), comfy.base / "models" / "tadisr" / "tiny.safetensors")
    Image.effect_noise((13, 9), 60).convert("RGB").save(comfy.base / "input" / "noise.png")
    changed = with_inputs(prompt)
    changed["1"]["inputs"]["image"] = "noise.png"
    changed["2"]["inputs"] = {"model": "tiny.safetensors", "dtype": "fp32"}
    assert "the folder of kolors that has unet/ and vae/" in comfy.run(changed).error
    changed["2"]["inputs"]["base"] = "TinyKolors"
    result = comfy.run(changed)
    assert result.last == "execution_success", result.error or result.body
    merged = tadisr.load(
        comfy.base / "models" / "tadisr" / "tiny.safetensors", base=comfy.base / "models" / "diffusers" / "TinyKolors"
    )
    expected = tadisr.upscale(merged, read_image(comfy.base / "input" / "noise.png")).image
    got = read_image(comfy.output(result.images("4")[0]))
    assert got.shape == (1, 3, 36, 52) and (got - expected).abs().max() < 2 / 255


def test_interrupt_between_tiles(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """After the first of many tiles the user stops it; what comes after runs as ever."""
    stopped: list[str] = []

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "3" and not stopped:
            stopped.append(kind)
            urllib.request.urlopen(urllib.request.Request(comfy.url + "/interrupt", b"{}", method="POST")).read()

    result = comfy.run(with_inputs(prompt, tile=128, overlap=64, scale=3.75), on_event=stop)
    assert stopped and result.last == "execution_interrupted"
    done = [d["value"] for kind, d in result.events if kind == "progress" and d["node"] == "3"]
    total = next(d["max"] for kind, d in result.events if kind == "progress" and d["node"] == "3")
    assert max(done) < total
    small = with_inputs(prompt)
    Image.new("RGB", (9, 9)).save(comfy.base / "input" / "tiny.png")
    small["1"]["inputs"]["image"] = "tiny.png"
    assert comfy.run(small).last == "execution_success"


def test_the_template_and_its_thumbnail_are_served(comfy: Comfy) -> None:
    titles = json.loads((ROOT / "workflows" / "notes" / "titles.json").read_text("utf-8"))
    assert sorted(comfy.get("/api/workflow_templates")["tadisr"]) == sorted(titles.values())
    for title in titles.values():
        address = f"{comfy.url}/api/workflow_templates/tadisr/{urllib.parse.quote(title)}.jpg"
        with urllib.request.urlopen(address) as answer:
            assert answer.status == 200 and answer.read(2) == b"\xff\xd8"


def test_tiling_is_previewed_and_followed(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """The tiles of the node, not the upscaler's own, set the number of steps; the preview shows where they meet."""
    changed = copy.deepcopy(prompt)
    changed["tiles"] = node(
        "TADiSRTiling", tile=512, overlap=128, batch=1, blend="linear", text_aware=True, image=["1", 0], model=["2", 0]
    )
    changed["3"]["inputs"] |= {"tiling": ["tiles", 0], "fidelity": 0.3}
    changed["seen"] = node("SaveImage", images=["tiles", 1], filename_prefix="tiles")
    result = comfy.run(changed)
    assert result.last == "execution_success", result.error
    steps = [d["max"] for kind, d in result.events if kind == "progress" and d["node"] == "3"]
    assert steps == [9] * 9
    preview = read_image(comfy.output(result.images("seen")[0]))
    plain = read_image(ROOT / "sample" / "sample.png")[:, :3]
    assert preview.shape == plain.shape
    change = (preview - plain).abs().amax(1)
    assert 0.02 < (change > 0.1).float().mean() < 0.5


def test_a_long_job_counts_its_tiles(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """Slow by its many small tiles: the node says how many are done and how long the rest takes."""
    changed = with_inputs(prompt, tile=128, overlap=64, scale=3.5)
    changed["1"]["inputs"]["image"] = "wide.png"
    with Image.open(comfy.base / "input" / "sample.png") as sample:
        sample.convert("RGB").resize((1200, 800)).save(comfy.base / "input" / "wide.png")
    seen: list[str] = []

    def stop(kind: str, data: Any) -> None:
        if kind == "text" and re.fullmatch(r"Tile \d+ of \d+, \d+ (s|min) left", data):
            seen.append(data)
        if len(seen) == 3:
            comfy.post("/interrupt", {})

    result = comfy.run(changed, on_event=stop)
    assert len(seen) >= 3 and result.last == "execution_interrupted"


def test_a_target_size_auto_tiles_and_lab(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """Above 4x by a second pass; the size is exact. On the CPU auto is the largest tile."""
    changed = with_inputs(prompt, resize_to="longest side", target_size=200.0, tile=0, overlap=-1, color="lab")
    Image.effect_noise((40, 30), 60).convert("RGB").save(comfy.base / "input" / "noise40.png")
    changed["1"]["inputs"]["image"] = "noise40.png"
    result = comfy.run(changed)
    assert result.last == "execution_success", result.error or result.body
    assert Image.open(comfy.output(result.images("4")[0])).size == (200, 150)
    assert Image.open(comfy.output(result.images("6")[0])).size == (200, 150)
    assert "at most 16 times" in comfy.run(with_inputs(prompt, resize_to="megapixels", target_size=2048.0)).error
    assert "tile is 10, expected 128 or more, or 0" in comfy.run(with_inputs(prompt, tile=10)).error


def test_the_model_runs_in_comfyuis_own_upscale_node(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """One tile of the core's node is one tile of ours: the same image."""
    with Image.open(comfy.base / "input" / "sample.png") as sample:
        sample.convert("RGB").crop((40, 60, 140, 120)).save(comfy.base / "input" / "piece.png")
    changed = with_inputs(prompt)
    changed["1"]["inputs"]["image"] = "piece.png"
    changed["core"] = node("ImageUpscaleWithModel", upscale_model=["2", 1], image=["1", 0])
    changed["saved"] = node("SaveImage", images=["core", 0], filename_prefix="core")
    result = comfy.run(changed)
    assert result.last == "execution_success", result.error or result.body
    ours, core = (read_image(comfy.output(result.images(name)[0])) for name in ("4", "saved"))
    assert ours.shape == core.shape == (1, 3, 240, 400)
    assert (ours - core).abs().max() < 1.5 / 255
