"""The prompt encoder against diffusers' own pipeline, from every container; what is wrong gets one clear sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from repository import ROOT
from safetensors.torch import load_file, save_file
from tiny_glm import (
    into_hub_cache,
    quantise,
    state_of,
    tiny_glm,
    write_kolors,
    write_single,
    write_vocabulary,
)

from tadisr.config import PromptConfig
from tadisr.errors import CheckpointError, ConfigError, TADiSRError
from tadisr.text_encoders import chatglm3
from tadisr.text_encoders.chatglm3 import encode_prompt
from tadisr.text_encoders.chatglm3_weights import CHATGLM3, is_encoder, open_weights, unpack_int4

TEXT = PromptConfig.text


def of_the_pipeline(model: Any, vocabulary: Path, text: str = TEXT) -> tuple[torch.Tensor, torch.Tensor]:
    """KolorsPipeline.encode_prompt itself; only the parts it uses are there."""
    from diffusers.pipelines.kolors import ChatGLMTokenizer, KolorsPipeline

    pipeline = SimpleNamespace(
        tokenizer=ChatGLMTokenizer(str(vocabulary)), text_encoder=model,
        config=SimpleNamespace(force_zeros_for_empty_prompt=False),
    )  # fmt: skip
    with torch.no_grad():
        embedding, _, pooled, _ = KolorsPipeline.encode_prompt(
            pipeline, text, device=torch.device("cpu"), do_classifier_free_guidance=False
        )  # pyright: ignore
    return embedding, pooled


@pytest.mark.parametrize("text", [TEXT, "高质量的照片，文字清晰 text", "text " * 300])
def test_equal_to_kolors_pipeline(kolors: Path, glm: Any, vocabulary: Path, text: str) -> None:
    embedding, pooled = of_the_pipeline(glm, vocabulary, text)
    prompt = encode_prompt(kolors, text=text)
    assert prompt.embedding.shape == (1, 256, 32) and prompt.pooled is not None and prompt.pooled.shape == (1, 32)
    assert (prompt.embedding - embedding).abs().max() < 1e-5
    assert (prompt.pooled - pooled).abs().max() < 1e-5
    assert prompt.embedding.std() > 0.05  # it says something


def test_the_mask_is_left_padded_and_the_word_is_last(kolors: Path, vocabulary: Path) -> None:
    from diffusers.pipelines.kolors import ChatGLMTokenizer

    prompt = encode_prompt(kolors)
    count = int(prompt.mask.sum())
    assert 2 < count < 40 and prompt.mask.tolist() == [0] * (256 - count) + [1] * count
    assert prompt.positions.tolist()[-1] == 255
    tokenizer = ChatGLMTokenizer(str(vocabulary))
    ids = tokenizer(TEXT, padding="max_length", max_length=256)["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens([ids[i] for i in prompt.positions.tolist()])
    assert "".join(pieces).lstrip("▁") == "text"


@pytest.mark.parametrize("kind", ["whole", "part", "bin", "bin without prefix", "single"])
def test_every_container_gives_the_same(kolors: Path, glm: Any, vocabulary: Path, tmp_path: Path, kind: str) -> None:
    expected = encode_prompt(kolors)
    source = {
        "whole": lambda: kolors,
        "part": lambda: kolors / "text_encoder",
        "bin": lambda: write_kolors(tmp_path / "Kolors", glm, vocabulary),
        "bin without prefix": lambda: write_kolors(tmp_path / "Kolors", glm, vocabulary, prefix=""),
        "single": lambda: write_single(tmp_path / "chatglm3-fp16.safetensors", glm),
    }[kind]()
    beside = kolors / "tokenizer" if kind == "single" else None
    assert encode_prompt(source, tokenizer=beside).equals(expected)  # the encoder's digest too


def test_quantised_files_are_what_they_stand_for(glm: Any, vocabulary: Path, tmp_path: Path) -> None:
    """Equal to the plain model on the dequantised weights, and near the fp16 ones: 8 bits nearer than 4."""
    from diffusers.pipelines.kolors import ChatGLMModel

    full, _ = of_the_pipeline(glm, vocabulary)
    apart = []
    for bits in (8, 4):
        path = write_single(tmp_path / f"chatglm3-{bits}bit.safetensors", glm, bits)
        prompt = encode_prompt(path, tokenizer=vocabulary)
        state = quantise(state_of(glm), bits)
        plain = ChatGLMModel(glm.config).eval()
        values = {}
        for name, tensor in state.items():
            if name.endswith("_scale"):
                continue
            if name + "_scale" in state:
                whole = torch.round(state_of(glm)[name] / state[name + "_scale"][:, None]).to(torch.int8)
                tensor = whole.float() * state[name + "_scale"].float()[:, None]
            values[name] = tensor.float()
        plain.load_state_dict(values)
        expected, pooled = of_the_pipeline(plain, vocabulary)
        assert (prompt.embedding - expected).abs().max() < 1e-5
        assert prompt.pooled is not None and (prompt.pooled - pooled).abs().max() < 1e-5
        apart.append((prompt.embedding - full).abs().mean())
    assert 0 < apart[0] < apart[1] / 4


def test_the_published_packing_of_4_bits() -> None:
    """compress_int4_weight of ChatGLM's C reference: the first value in the high half, both signed."""
    assert unpack_int4(torch.tensor([[0x7F, -128]], dtype=torch.int8)).tolist() == [[7, -1, -8, 0]]


def test_only_one_layer_is_in_memory(kolors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    models: list[Any] = []
    build = chatglm3.build_skeleton

    def remember(weights: Any) -> Any:
        models.append(build(weights))
        return models[0]

    monkeypatch.setattr(chatglm3, "build_skeleton", remember)

    def progress(done: int, total: int) -> None:
        held.append(sum(not p.is_meta for p in models[0].parameters()))
        assert total == 3

    encode_prompt(kolors, progress=progress)
    assert held == [1, 1, 1]  # the final norm's; the layer that has just run has let go of its own


def test_progress_can_cancel(kolors: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_prompt(kolors, progress=stop)


def test_half_precision_is_close_to_full(kolors: Path) -> None:
    full, half = encode_prompt(kolors), encode_prompt(kolors, dtype=torch.bfloat16)
    assert half.embedding.dtype == torch.float32
    assert 0 < (full.embedding - half.embedding).abs().mean() < 0.05


# ---- the word -------------------------------------------------------------------------------------------------------


def spelled(vocabulary: Path, prompt: Any) -> list[str]:
    from diffusers.pipelines.kolors import ChatGLMTokenizer

    tokenizer = ChatGLMTokenizer(str(vocabulary))
    ids = tokenizer(prompt.text, padding="max_length", max_length=256, truncation=True)["input_ids"]
    return tokenizer.convert_ids_to_tokens([ids[i] for i in prompt.positions.tolist()])


@pytest.mark.parametrize(
    ("text", "word", "joined"),
    [
        ("text,best quality", "text", "▁text"),
        ("a context of texture, text, best", "text", "▁text"),  # whole words only
        ("高质量的照片，文字清晰", "文字", "文字"),
        ("文字清晰，街道上的文字，招牌", "文字", "文字"),
        ("best quality,small letters,best", "letters", "▁letters"),
        ("best high resolution text", "high resolution", "▁high▁resolution"),
    ],
)
def test_the_words_tokens_spell_the_word(kolors: Path, vocabulary: Path, text: str, word: str, joined: str) -> None:
    prompt = encode_prompt(kolors, text=text, word=word)
    assert joined.lstrip("▁") in "".join(spelled(vocabulary, prompt))
    assert all(prompt.mask[i] == 1 for i in prompt.positions)
    # of several places the last one: nothing after it spells the word again
    rest = "".join(text.split(word)[-1])
    assert word not in rest


def test_of_two_places_the_last_one(kolors: Path) -> None:
    once = encode_prompt(kolors, text="text,best quality")
    twice = encode_prompt(kolors, text="text,best quality,text")
    assert twice.positions.tolist()[-1] == 255
    assert len(twice.positions) <= len(once.positions)


def test_a_word_split_over_pieces(kolors: Path, vocabulary: Path) -> None:
    prompt = encode_prompt(kolors, text="best,zest xenon quality", word="xenon")
    pieces = spelled(vocabulary, prompt)
    assert len(pieces) > 1 and "xenon" in "".join(pieces)
    assert prompt.positions.tolist() == list(range(int(prompt.positions[0]), int(prompt.positions[-1]) + 1))


def test_a_character_split_into_bytes(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path / "tokenizer.model", size=400, byte_fallback=True)
    source = write_single(tmp_path / "glm.safetensors", tiny_glm(path))
    prompt = encode_prompt(source, text="best quality,驫text", word="驫")  # in no corpus
    assert len(prompt.positions) == 3
    assert all(piece.startswith("<0x") for piece in spelled(path, prompt))


@pytest.mark.parametrize("word", ["poster", "tex", "文本", "Text", ""])
def test_a_word_that_is_not_there(kolors: Path, word: str) -> None:
    with pytest.raises(ConfigError, match=r"not in the prompt|is empty"):
        encode_prompt(kolors, word=word)


def test_a_word_that_is_cut_off(kolors: Path) -> None:
    with pytest.raises(ConfigError, match="Only 256 tokens are read: the prompt is cut off"):
        encode_prompt(kolors, text="best quality," * 200 + "text")


def test_a_hub_cache_folder(kolors: Path, tmp_path: Path) -> None:
    cache = into_hub_cache(kolors, tmp_path / "models--Kwai-Kolors--Kolors-diffusers")
    expected = encode_prompt(kolors)
    assert encode_prompt(cache).equals(expected)
    assert encode_prompt(kolors / "text_encoder", tokenizer=cache).equals(expected)


# ---- wrong files ----------------------------------------------------------------------------------------------------


def test_an_encoder_is_told_by_its_table(kolors: Path, glm: Any, vocabulary: Path, tmp_path: Path) -> None:
    part = kolors / "text_encoder"
    assert is_encoder(part) and is_encoder(write_kolors(tmp_path, glm, vocabulary) / "text_encoder")
    assert all(is_encoder(write_single(tmp_path / f"{bits}.safetensors", glm, bits)) for bits in (16, 8, 4))
    assert not is_encoder(kolors) and not is_encoder(kolors / "tokenizer") and not is_encoder(vocabulary)
    assert not any(is_encoder(shard) for shard in part.glob("*.safetensors"))
    assert not is_encoder(tmp_path / "nothing")


def test_overflow_is_told(glm: Any, vocabulary: Path, tmp_path: Path) -> None:
    path = write_single(tmp_path / "glm.safetensors", glm)
    state = load_file(path)
    state["encoder.layers.0.mlp.dense_4h_to_h.weight"].fill_(float("nan"))
    save_file(state, path)
    with pytest.raises(CheckpointError, match="NaN or infinite values"):
        encode_prompt(path, tokenizer=vocabulary)


def test_without_transformers(kolors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.pipelines.kolors.text_encoder", None)
    with pytest.raises(TADiSRError, match=r"pip install 'tadisr\[prompt\]'"):
        encode_prompt(kolors)


def test_the_real_sizes_are_told_by_the_table(tmp_path: Path) -> None:
    """ChatGLM3-6B's own shapes, fp16 and 4-bit, from headers alone: files with holes, never read."""
    for bits in (16, 8, 4):
        path = real_size(tmp_path / f"{bits}.safetensors", bits)
        weights = open_weights(path)
        config = weights.config
        assert (config["num_layers"], config["hidden_size"], config["ffn_hidden_size"]) == (28, 4096, 13696)
        assert (config["num_attention_heads"], config["kv_channels"], config["multi_query_group_num"]) == (32, 128, 2)
        assert config["padded_vocab_size"] == 65024
        chatglm3.build_skeleton(weights)  # every name and shape of diffusers' model is in it
        size = path.stat().st_size / 1e9
        assert size == pytest.approx({16: 12.49, 8: 6.78, 4: 3.92}[bits], abs=0.01)  # the published files'


@pytest.mark.slow
def test_little_memory_at_the_real_width(vocabulary: Path, tmp_path: Path) -> None:
    """Six layers of ChatGLM3-6B's width, 2.5 GB in fp16 and 5 GB in fp32: one layer in fp32 and little more is held."""
    rows = int(
        open_weights(write_single(tmp_path / "tiny.safetensors", tiny_glm(vocabulary))).config["padded_vocab_size"]
    )
    path = real_size(tmp_path / "wide.safetensors", 16, layers=6, rows=rows)
    code = f"""
import resource
from tadisr.text_encoders.chatglm3 import encode_prompt, kolors_classes
kolors_classes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
encode_prompt({str(path)!r}, tokenizer={str(vocabulary)!r}, tokens=32)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.6 < path.stat().st_size / 2**30


def real_size(path: Path, bits: int, *, layers: int = 28, rows: int = 65024) -> Path:
    """A safetensors file of ChatGLM3-6B's whole table whose numbers are a hole in the file."""
    _, model_class, config_class = chatglm3.kolors_classes()
    sizes = {"num_layers": layers, "padded_vocab_size": rows, "hidden_size": 4096, "ffn_hidden_size": 13696}
    model = model_class(config_class(**CHATGLM3, **sizes, num_attention_heads=32), device="meta")
    table: dict[str, Any] = {}
    at = 0

    def add(name: str, shape: list[int], kind: str, width: int) -> None:
        nonlocal at
        count = width * torch.Size(shape).numel()
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + count]}
        at += count

    for name, tensor in model.state_dict().items():
        if bits != 16 and name.startswith("encoder.layers") and tensor.ndim == 2:
            add(name, [tensor.shape[0], tensor.shape[1] * bits // 8], "I8", 1)
            add(name + "_scale", [tensor.shape[0]], "F16", 2)
        else:
            add(name, list(tensor.shape), "F16", 2)
    header = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + at)
    return path
