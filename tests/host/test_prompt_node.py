"""Prompts in a real ComfyUI: a tiny ChatGLM3 in the users' folders, encoded, kept, loaded again, put into the chain."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from comfy_host import Comfy, node
from PIL import Image
from safetensors.torch import save_file
from tiny import randomize, tiny_kolors_config, write_base
from tiny_glm import tiny_glm, write_cogview4_text, write_diffusers, write_kolors, write_single, write_vocabulary

import tadisr
from tadisr import TADiSR, presets
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.config import LoRAConfig
from tadisr.images import read_image
from tadisr.inference import staged
from tadisr.model.lora import add_lora
from tadisr.prompt import read_prompt
from tadisr.text_encoders import chatglm3 as kolors_glm
from tadisr.text_encoders import glm4 as cogview4_glm
from tadisr.text_encoders.chatglm3 import encode_prompt

Prompt = dict[str, Any]
TEXT = "招牌上的文字，清晰"


@pytest.fixture(scope="module")
def files(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text encoders where users have them, and what is none beside them."""
    models = comfy.base / "models"
    vocabulary = write_vocabulary(tmp_path_factory.mktemp("words") / "tokenizer.model")
    glm = tiny_glm(vocabulary)
    write_single(models / "LLM" / "checkpoints" / "chatglm3-8bit.safetensors", glm, 8)
    write_single(models / "text_encoders" / "chatglm3-fp16.safetensors", glm)
    write_diffusers(models / "diffusers" / "KolorsText", glm, vocabulary)
    write_kolors(models / "LLM" / "Kolors", glm, vocabulary)
    write_cogview4_text(models / "diffusers" / "CogView4", [presets.COGVIEW4_PROMPT])
    save_file({"model.embed_tokens.weight": torch.zeros(2, 2)}, models / "LLM" / "llama.safetensors")
    write_vocabulary(models / "LLM" / "a_llama" / "tokenizer.model", size=170)  # another model's, found first
    return models


def encode(**inputs: Any) -> Prompt:
    given = {"text_encoder": "KolorsText/text_encoder", "prompt": TEXT, "word": "文字", "name": "signs"} | inputs
    return {"prompt": node("TADiSREncodePrompt", **given)}


def options(comfy: Comfy, kind: str, name: str) -> list[str]:
    spec = comfy.get(f"/object_info/{kind}")[kind]["input"]["required"][name]
    return spec[0] if isinstance(spec[0], list) else spec[1]["options"]


def test_only_what_fits_is_listed(comfy: Comfy, files: Path) -> None:
    assert set(options(comfy, "TADiSREncodePrompt", "text_encoder")) == {
        "checkpoints/chatglm3-8bit.safetensors", "chatglm3-fp16.safetensors", "Kolors/text_encoder", "KolorsText/text_encoder",
        "CogView4/text_encoder",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["KolorsText/text_encoder", "chatglm3-fp16.safetensors", "Kolors/text_encoder"])
def test_encoded_and_kept(comfy: Comfy, files: Path, name: str) -> None:
    """The same from every container; the tokenizer of a single file is found in another folder."""
    result = comfy.run(encode(text_encoder=name, name=f"kept {len(name)}"))
    assert result.last == "execution_success", result.error or result.body
    kept = read_prompt(files / "tadisr" / f"kept {len(name)}.safetensors")
    assert kept.equals(encode_prompt(files / "diffusers" / "KolorsText", text=TEXT, word="文字"))
    steps = [(d["value"], d["max"]) for kind, d in result.events if kind == "progress"]
    assert steps[-1] == (3, 3)


@pytest.mark.parametrize(
    ("folder", "encoder"), [("KolorsText", kolors_glm), ("CogView4", cogview4_glm)], ids=["kolors", "cogview4"]
)
def test_a_new_node_encodes_the_prompt_of_the_encoders_own_adapters(
    comfy: Comfy, files: Path, folder: str, encoder: ModuleType
) -> None:
    spec = comfy.get("/object_info/TADiSREncodePrompt")["TADiSREncodePrompt"]["input"]["required"]
    new = {name: spec[name][1]["default"] for name in ("prompt", "word")}
    asked = encode(text_encoder=f"{folder}/text_encoder", name=folder, **new)
    result = comfy.run(asked)
    assert result.last == "execution_success", result.error or result.body
    path = files / "tadisr" / f"{folder}.safetensors"
    kept = read_prompt(path)
    assert kept.text == encoder.TEXT and (kept.pooled is None) == (encoder is cogview4_glm)
    assert kept.equals(encoder.encode_prompt(files / "diffusers" / folder))
    made = path.stat().st_mtime_ns
    asked["prompt"]["inputs"]["overwrite"] = True  # asked in other words for the same: it is not encoded again
    assert comfy.run(asked).last == "execution_success" and path.stat().st_mtime_ns == made


def test_prompts_and_models_keep_to_their_lists(comfy: Comfy, files: Path) -> None:
    assert comfy.run(encode(name="listed")).last == "execution_success"
    shutil.copy(tadisr.COMPACT, files / "tadisr" / "a_model.safetensors")
    models = options(comfy, "TADiSRLoader", "model")
    prompts = options(comfy, "TADiSRLoadPrompt", "prompt_file")
    assert "listed.safetensors" in prompts and "listed.safetensors" not in models
    assert "a_model.safetensors" in models and "a_model.safetensors" not in prompts


def test_nothing_is_overwritten_unasked(comfy: Comfy, files: Path) -> None:
    assert comfy.run(encode(name="safe")).last == "execution_success"
    path = files / "tadisr" / "safe.safetensors"
    before = path.stat().st_mtime_ns
    again = comfy.run(encode(name=" safe.safetensors"))  # the same prompt under the same name: read, not made again
    assert again.last == "execution_success" and path.stat().st_mtime_ns == before
    assert "progress" not in {kind for kind, _ in again.events}
    other = {"prompt": "街道上的文字", "name": "safe"}
    assert "holds another prompt already" in comfy.run(encode(**other)).error
    assert path.stat().st_mtime_ns == before
    assert comfy.run(encode(**other, overwrite=True)).last == "execution_success"
    assert read_prompt(path).text == "街道上的文字"
    shutil.copy(tadisr.COMPACT, path)
    assert "no prompt file: choose another name" in comfy.run(encode(name="safe", overwrite=True)).error
    assert path.read_bytes() == tadisr.COMPACT.read_bytes()


@pytest.mark.parametrize("name", ["../out", "a/b", "a\\b", "", "..", ".hidden", "C:x", "/etc/x", "a\nb", "x" * 101])
def test_names_stay_in_the_folder(comfy: Comfy, files: Path, name: str) -> None:
    assert "expected a file's name without folders" in comfy.run(encode(name=name)).error


def test_wrong_words_and_files_get_one_sentence(comfy: Comfy, files: Path) -> None:
    assert "'poster' is not in the prompt" in comfy.run(encode(word="poster", name="wrong")).error
    assert not (files / "tadisr" / "wrong.safetensors").exists()
    result = comfy.run(encode(text_encoder="llama.safetensors"))
    assert "no ChatGLM3 or GLM-4 'llama.safetensors'" in (result.error or str(result.body))
    absent = {
        "prompt": node("TADiSRLoadPrompt", prompt_file="../x.safetensors"),
        "end": node("PreviewAny", source=["prompt", 0]),
    }
    result = comfy.run(absent)
    assert "no prompt file '../x.safetensors'" in (result.error or str(result.body))


def chain(comfy: Comfy) -> Prompt:
    return {
        "in": node("LoadImage", image="noise.png"),
        "model": node("TADiSRLoader", model="prompted.safetensors", dtype="fp32", base="TinyPrompted"),
        "encode": node("TADiSREncode", image=["in", 0], model=["model", 0], scale=4.0),
        "denoise": node("TADiSRDenoise", latent=["encode", 0], model=["model", 0]),
        "decode": node(
            "TADiSRJointDecode", latent=["denoise", 0], attention=["denoise", 1], model=["model", 0], guide_strength=1.0
        ),
        "out": node("SaveImage", images=["decode", 0], filename_prefix="prompted"),
    }  # fmt: skip


def test_the_chain_with_another_prompt(comfy: Comfy, files: Path) -> None:
    torch.manual_seed(3)
    model = TADiSR(tiny_kolors_config())
    base = write_base(files / "diffusers" / "TinyPrompted", model)
    model = load_base(base, model.config)
    add_lora(model, LoRAConfig())
    path = files / "tadisr" / "prompted.safetensors"
    adapter.save_checkpoint(randomize(model), path)
    Image.effect_noise((13, 9), 60).convert("RGB").save(comfy.base / "input" / "noise.png")

    assert comfy.run(encode(name="chained")).last == "execution_success"
    plain, prompted = chain(comfy), chain(comfy)
    prompted["prompt"] = node("TADiSRLoadPrompt", prompt_file="chained.safetensors")
    prompted["denoise"]["inputs"]["prompt"] = ["prompt", 0]
    pictures = []
    for workflow in (plain, prompted, plain):
        result = comfy.run(workflow)
        assert result.last == "execution_success", result.error or result.body
        pictures.append(read_image(comfy.output(result.images("out")[0])))
    assert (pictures[0] - pictures[1]).abs().max() > 2 / 255  # it is heard
    assert torch.equal(pictures[0], pictures[2])  # and not kept

    merged = tadisr.load(path, base=base)
    image = read_image(comfy.base / "input" / "noise.png")
    samples, source = staged.encode(merged, image, scale=4.0)
    samples, attention = staged.denoise(
        merged, samples, source, prompt=read_prompt(files / "tadisr" / "chained.safetensors")
    )
    expected = staged.decode(merged, samples, attention).image
    assert (pictures[1] - expected).abs().max() < 2 / 255

    compact = chain(comfy) | {"model": node("TADiSRLoader", model="compact (built in)", dtype="fp32")}
    compact["prompt"] = prompted["prompt"]
    compact["denoise"]["inputs"]["prompt"] = ["prompt", 0]
    assert "prompt is part of its weights" in comfy.run(compact).error
