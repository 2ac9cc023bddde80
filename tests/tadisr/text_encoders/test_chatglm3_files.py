"""Files that ChatGLM3 cannot be read from: each gets one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_glm import quantise, state_of, write_diffusers, write_kolors, write_single, write_vocabulary

from tadisr.errors import CheckpointError
from tadisr.text_encoders.chatglm3 import encode_prompt


def test_without_a_tokenizer(glm: Any, vocabulary: Path, tmp_path: Path) -> None:
    source = write_single(tmp_path / "LLM" / "chatglm3-fp16.safetensors", glm)
    with pytest.raises(CheckpointError, match=r"no tokenizer.model beside .*fetch tokenizer/tokenizer.model .*LLM"):
        encode_prompt(source)
    (source.parent / "tokenizer.model").write_bytes(vocabulary.read_bytes())
    assert encode_prompt(source).word == "text"
    with pytest.raises(CheckpointError, match=r"no tokenizer.model in .*nowhere"):
        encode_prompt(source, tokenizer=tmp_path / "nowhere")


def test_another_models_tokenizer(kolors: Path, tmp_path: Path) -> None:
    other = write_vocabulary(tmp_path / "tokenizer.model", size=170)
    with pytest.raises(CheckpointError, match="it is another model's"):
        encode_prompt(kolors, tokenizer=other)
    other.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        encode_prompt(kolors, tokenizer=other)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "model.fp16-00002-of-00003.safetensors").unlink(), r"lacks model.fp16-00002.*, 1 of the 3"),
        (lambda f: cut(f / "model.fp16-00002-of-00003.safetensors"), "not a whole safetensors file"),
        (lambda f: pointer(f / "model.fp16-00002-of-00003.safetensors"), "git lfs pull"),
        (lambda f: (f / "model.safetensors.index.fp16.json").unlink(), "has no text encoder in it"),
        (lambda f: (f / "model.safetensors.index.fp16.json").write_text("{"), "no index of shards"),
        (lambda f: (f / "config.json").write_text("["), "no JSON table"),
        (lambda f: (f / "config.json").write_text('{"num_layers": 4}'), "lacks encoder.layers.3"),
        (lambda f: (f / "config.json").write_text('{"ffn_hidden_size": 65}'), "a ChatGLM3 of its sizes has"),
    ],
)  # fmt: skip
def test_broken_folders_are_refused_in_one_sentence(
    glm: Any, vocabulary: Path, tmp_path: Path, harm: Any, message: str
) -> None:
    root = write_diffusers(tmp_path, glm, vocabulary)
    harm(root / "text_encoder")
    with pytest.raises(CheckpointError, match=message):
        encode_prompt(root)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", encoding="utf-8")


def test_broken_pickles_are_refused(glm: Any, vocabulary: Path, tmp_path: Path) -> None:
    root = write_kolors(tmp_path, glm, vocabulary)
    shard = root / "text_encoder" / "pytorch_model-00003-of-00007.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        encode_prompt(root)
    torch.save({"run": print}, shard)  # code in a pickle is refused, not run
    with pytest.raises(CheckpointError, match="is no pickle of tensors alone"):
        encode_prompt(root)


def test_foreign_and_half_files(glm: Any, vocabulary: Path, tmp_path: Path) -> None:
    path = tmp_path / "llama.safetensors"
    save_file({"model.embed_tokens.weight": torch.zeros(4, 4)}, path)
    with pytest.raises(CheckpointError, match=r"is not a whole ChatGLM3: it lacks embedding\.word_embeddings\.weight"):
        encode_prompt(path, tokenizer=vocabulary)
    state = state_of(glm)
    state.pop("encoder.layers.1.mlp.dense_4h_to_h.weight")
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"lacks encoder.layers.1.mlp.dense_4h_to_h.weight \(1 of"):
        encode_prompt(path, tokenizer=vocabulary)
    state = quantise(state_of(glm), 8)
    state.pop("encoder.layers.1.mlp.dense_4h_to_h.weight_scale")
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"dense_4h_to_h.weight is quantised in a way .* fp16 file"):
        encode_prompt(path, tokenizer=vocabulary)
    with pytest.raises(CheckpointError, match="There is no file"):
        encode_prompt(tmp_path / "nothing.safetensors")
