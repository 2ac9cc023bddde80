"""What a second run does again, and what not: caches, replaced files, freed memory."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from comfy_host import Comfy, Result
from PIL import Image

import tadisr
from tadisr.checkpoints import adapter
from tadisr.images import read_image


def cached(result: Result) -> set[str]:
    """The nodes that a run took from the one before."""
    assert result.last == "execution_success", result.error or result.body
    return {name for kind, data in result.events if kind == "execution_cached" for name in data["nodes"]}


def small(comfy: Comfy, prompt: dict[str, Any], name: str) -> dict[str, Any]:
    Image.effect_noise((24, 16), 70).convert("RGB").save(comfy.base / "input" / f"{name}.png")
    prompt["1"]["inputs"]["image"] = f"{name}.png"
    prompt["4"]["inputs"]["filename_prefix"] = name
    return prompt


def test_a_second_run_does_only_what_has_changed(comfy: Comfy, prompt: dict[str, Any]) -> None:
    small(comfy, prompt, "again")
    comfy.run(prompt)
    assert {"1", "2", "3"} <= cached(comfy.run(prompt))
    prompt["3"]["inputs"]["fidelity"] = 0.5
    done = cached(comfy.run(prompt))
    assert {"1", "2"} <= done and "3" not in done


def test_a_model_file_that_was_replaced_is_loaded_again_and_no_other_is(comfy: Comfy, prompt: dict[str, Any]) -> None:
    folder = comfy.base / "models" / "tadisr"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(tadisr.COMPACT, folder / "kept.safetensors")
    small(comfy, prompt, "replaced")
    prompt["2"]["inputs"]["model"] = "kept.safetensors"
    before = comfy.run(prompt)
    shutil.copy(tadisr.COMPACT, folder / "beside.safetensors")  # another file changes nothing
    assert "2" in cached(comfy.run(prompt))
    model = tadisr.load()
    with torch.no_grad():
        model.vae.decoder.conv_out.bias.add_(0.2)
    adapter.save_checkpoint(model, folder / "kept.safetensors")
    os.utime(folder / "kept.safetensors", (1, 1))  # older than before: any change counts
    after = comfy.run(prompt)
    assert not {"2", "3"} & cached(after)
    first, second = (read_image(comfy.output(result.images("4")[0])) for result in (before, after))
    assert (second - first).mean() > 0.03


def test_after_memory_was_freed_it_runs_as_before(comfy: Comfy, prompt: dict[str, Any]) -> None:
    """ComfyUI's "unload models and node cache" button, and the model's memory with it."""
    small(comfy, prompt, "freed")
    before = comfy.run(prompt)
    assert comfy.post("/free", {"unload_models": True, "free_memory": True})[0] == 200
    after = comfy.run(prompt)
    if "2" in cached(after):  # the button's flag is looked at between two runs; the first may have come too soon
        after = comfy.run(prompt)
    assert not {"1", "2", "3"} & cached(after)
    first, second = (read_image(comfy.output(result.images("4")[0])) for result in (before, after))
    assert torch.equal(first, second)
