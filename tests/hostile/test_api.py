"""Mutated API prompts against a real ComfyUI: an answer, the host's refusal, or one sentence from our nodes."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from browser import server
from comfy_host import Comfy, node
from harness import TALLIES, Tally
from hypothesis import strategies as st
from mutations import VALUES, draw_cases

OURS = ("ConfigError", "CheckpointError", "ImageError", "ResultError", "OutOfMemoryError", "TADiSRError")
LITERALS = VALUES | st.sampled_from(
    [129, {"samples": 5}, {"samples": []}, {"__value__": [1]}, "CON", "nul.txt", "x" * 300, "../x", float("nan"), ["model", 0]]
)  # fmt: skip


def chain() -> dict[str, Any]:
    """All nodes that need no other model, on a tiny image."""
    return {
        "image": node("EmptyImage", width=12, height=9, batch_size=1, color=0xC0FFEE),
        "model": node("TADiSRLoader", model="compact (built in)", dtype="fp32"),
        "tiling": node("TADiSRTiling", tile=128, overlap=32, batch=1, blend="cosine", text_aware=True, image=["image", 0]),
        "up": node("TADiSRUpscale", image=["image", 0], model=["model", 0], scale=4.0, tile=128, overlap=32, tile_batch=1,
                   color="off", tiling=["tiling", 0], fidelity=0.5),
        "encode": node("TADiSREncode", image=["image", 0], model=["model", 0], scale=4.0),
        "denoise": node("TADiSRDenoise", latent=["encode", 0], model=["model", 0]),
        "heat": node("TADiSRTextAttention", attention=["denoise", 1], layers="all", heads="all", normalize="picture",
                     color_map="turbo", image=["image", 0]),
        "decode": node("TADiSRJointDecode", latent=["denoise", 0], attention=["denoise", 1], model=["model", 0],
                       guide_strength=1.0),
        "composite": node("TADiSRTextComposite", text_image=["up", 0], rest_image=["decode", 0], mask=["up", 1], grow=0,
                          feather=2.0, threshold=0.5),
        "prompt": node("TADiSREncodePrompt", text_encoder="none", prompt="a text", word="text", name="kept"),
        "load": node("TADiSRLoadPrompt", prompt_file="none"),
        "adapter": node("TADiSRAdapterLoader", base=["kolors", 0], adapter="none", strength=1.0),
        "kolors": node("TADiSRKolorsLoader", unet="none", vae="beside the U-Net", dtype="auto"),
        "save": node("SaveImage", images=["composite", 0], filename_prefix="hostile"),
        "preview": node("PreviewImage", images=["heat", 1]),
    }  # fmt: skip


GOOD = ("image", "model", "tiling", "up", "encode", "denoise", "heat", "decode", "composite", "save", "preview")


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """One or two inputs of our nodes replaced, removed or linked elsewhere, or one of the nodes that lack a model run."""
    prompt = chain()
    lone = draw(st.sampled_from(["", "", "", "prompt", "load", "adapter"]))
    if lone == "prompt":
        kept = ["prompt"]
    elif lone:  # an adapter or prompt that goes into a node with an output
        kept = ["kolors", "adapter", "load", *GOOD]
        prompt["up" if lone == "adapter" else "denoise"]["inputs"]["model" if lone == "adapter" else "prompt"] = [
            lone,
            0,
        ]
    else:
        kept = list(GOOD)
    prompt = {name: copy.deepcopy(prompt[name]) for name in kept}
    ours = [name for name in kept if prompt[name]["class_type"].startswith("TADiSR")]
    labels = []
    for _ in range(draw(st.integers(1, 2))):
        inputs = prompt[draw(st.sampled_from(ours))]["inputs"]
        name = draw(st.sampled_from(sorted(inputs)))
        how = draw(st.sampled_from(["value", "value", "value", "link", "gone"]))
        labels.append(how)
        if how == "value":
            inputs[name] = draw(LITERALS)
        elif how == "link":
            inputs[name] = [draw(st.sampled_from(kept)), draw(st.integers(-1, 3))]
        elif len(inputs) > 1:
            del inputs[name]
    return "+".join(labels), prompt


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    with server(tmp_path_factory.mktemp("hostile_api")) as started:
        yield started


def good(host: Comfy) -> None:
    prompt = {name: node for name, node in chain().items() if name in GOOD}
    result = host.run(prompt, timeout=60)
    assert result.last == "execution_success", result.error or result.body


def judge(host: Comfy, prompt: dict[str, Any]) -> tuple[str, str]:
    """How a prompt ended, and what was said. The host's own refusals and its nodes' errors are the host's affair."""
    try:
        result = host.run(prompt, timeout=15)
    except TimeoutError:
        return "hang", ""
    if result.status != 200:
        return "sentence", f"{result.status}"
    if result.last == "execution_success":
        return "answer", ""
    event = result.events[-1][1]
    kind = str(event.get("exception_type", "")).rpartition(".")[2]
    if kind in OURS:
        return ("sentence" if len(result.error.strip().splitlines()) == 1 else "no sentence"), result.error
    if not str(event.get("node_type", "")).startswith("TADiSR"):
        return "sentence", result.error
    return "raw", f"{event.get('node_type')} {kind}: {result.error} {''.join(event.get('traceback', []))[-600:]}"


@pytest.mark.slow
@pytest.mark.host
def test_mutated_prompts(host: Comfy, share: float) -> None:
    good(host)
    tally = Tally("API prompts")
    TALLIES.append(tally)
    for number, (label, prompt) in enumerate(draw_cases(mutated(), max(10, round(400 * share)), 8)):
        outcome, message = judge(host, prompt)
        text = f"{message} in {json.dumps(prompt)[:600]}"
        tally.add(
            f"{number} {label}", {"outcome": outcome, "message": text, "seconds": 0.0, "peak": 0, "outside": []}, 0
        )
        if outcome == "hang":
            break
    good(host)
    assert set(host.get("/object_info")) >= {node["class_type"] for node in chain().values()}
    assert not tally.problems, "\n".join(tally.problems[:15])


LISTED = {
    "tadisr": ["metadata 5", "config null", "float shape", "deep JSON"],
    "vae": ["one dimension"],
    "diffusion_models": ["one dimension"],
    "LLM": ["deep JSON"],
}


def damaged(what: str) -> bytes:
    """The files that made a node vanish from the page: the class's own lists raised."""
    row: dict[str, Any] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    names = ("decoder.conv_in.weight", "encoder.conv_in.weight", "conv_in.weight", "down.attn2.to_k.weight",
             "up_blocks.0.resnets.0.conv1.weight", "add_embedding.linear_1.weight")  # fmt: skip
    rows = {name: {**row, "data_offsets": [4 * i, 4 * i + 4]} for i, name in enumerate(names)}
    header = {
        "metadata 5": b'{"__metadata__": 5}',
        "config null": b'{"__metadata__": {"tadisr.format": "1", "tadisr.config": "null"}}',
        "float shape": json.dumps({"x": {**row, "shape": [1.0]}}).encode(),
        "deep JSON": b'{"a":' * 20_000,
        "one dimension": json.dumps(rows).encode(),
    }[what]
    return len(header).to_bytes(8, "little") + header + b"\0" * 4 * len(names)


@pytest.mark.host
def test_damaged_files_do_not_make_nodes_vanish(host: Comfy) -> None:
    """Files in every model folder, one of them a pipe; every node is listed with a good host's answer."""
    for folder, whats in LISTED.items():
        place = host.base / "models" / folder
        place.mkdir(parents=True, exist_ok=True)
        for number, what in enumerate(whats):
            (place / f"damaged{number}.safetensors").write_bytes(damaged(what))
    os.mkfifo(host.base / "models" / "tadisr" / "pipe.safetensors")
    (host.base / "models" / "LLM" / "pipe").mkdir()
    os.mkfifo(host.base / "models" / "LLM" / "pipe" / "model.safetensors")
    (host.base / "models" / "LLM" / "config").mkdir()
    (host.base / "models" / "LLM" / "config" / "model.safetensors").write_bytes(b"x")
    (host.base / "models" / "LLM" / "config" / "config.json").write_bytes(b"\xff\xfe")
    counts = Counter(node["class_type"] for node in chain().values())
    for kind in counts:
        assert kind in host.get(f"/object_info/{kind}"), kind
    files = host.get("/object_info/TADiSRLoader")["TADiSRLoader"]["input"]["required"]["model"]
    assert "damaged0.safetensors" in json.dumps(files)  # listed, and told of when it is loaded
    good(host)


@pytest.mark.host
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("up", "model", 129), "model is 129, expected a link from Load TADiSR Model"),
        (("up", "tiling", {}), "tiling is {}, expected a link from TADiSR Tiling"),
        (("denoise", "latent", {}), "latent has no samples"),
        (("decode", "attention", "x"), "attention is 'x', expected a link from TADiSR Denoise"),
        (("up", "image", "x"), "image is 'x', expected a link from an image or mask node"),
        (("up", "color", {}), "color is {}, expected a str"),
        (("up", "color", "sepia"), "color is 'sepia', expected one of"),
        (("heat", "layers", {"a": 1}), "layers is {'a': 1}, expected a str"),
        (("up", "fidelity", float("nan")), "fidelity is nan, expected a finite number"),
    ],
)
def test_literals_in_typed_sockets_are_told(host: Comfy, change: tuple[str, str, Any], message: str) -> None:
    prompt = {name: node for name, node in chain().items() if name in GOOD}
    name, socket, value = change
    prompt[name]["inputs"][socket] = value
    assert message in host.run(prompt).error


@pytest.mark.host
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("con", "which Windows keeps for a device"), ("COM1.a", "which Windows keeps for a device"),
        ("字" * 90, "270 bytes, expected 200 at most"), ("../x", "expected a file's name without folders"),
    ],
    ids=["device", "port", "bytes", "folder"],
)  # fmt: skip
def test_prompt_names_are_checked_before_encoding(host: Comfy, name: str, message: str) -> None:
    prompt = {"prompt": node("TADiSREncodePrompt", text_encoder="none", prompt="a text", word="text", name=name)}
    assert message in host.run(prompt).error
