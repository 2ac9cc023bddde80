"""A tiny ChatGLM3 with a tiny vocabulary, in every container that users have."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

CORPUS = """best quality,highres,extremely detailed,text
a photo of a street with text, context, texture and small letters
the word is text, the words are texts in a high resolution
高质量的照片，文字清晰
街道上的文字，招牌，文本
extremely quality detailed resolution best letters words
""".splitlines()
CONFIG: dict[str, Any] = {
    "num_layers": 3, "hidden_size": 32, "ffn_hidden_size": 64, "kv_channels": 8, "num_attention_heads": 4,
    "seq_length": 512, "multi_query_attention": True, "multi_query_group_num": 2, "rmsnorm": True,
    "add_qkv_bias": True, "add_bias_linear": False, "post_layer_norm": True, "original_rope": True,
}  # fmt: skip
QUANTISED = ("query_key_value.weight", "self_attention.dense.weight", "h_to_4h.weight", "4h_to_h.weight")


def write_vocabulary(path: Path, *, corpus: list[str] = CORPUS, size: int = 130, **options: Any) -> Path:
    """A SentencePiece model, trained in a moment, with ChatGLM's ids for what is special."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(corpus), model_writer=model, vocab_size=size, hard_vocab_limit=False, minloglevel=2,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, **{"character_coverage": 1.0, "model_type": "bpe"} | options,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.getvalue())
    return path


def tiny_glm(vocabulary: Path, *, seed: int = 0, **changes: Any) -> Any:
    """diffusers' ChatGLMModel with random weights that fp16 holds exactly."""
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    rows = ChatGLMTokenizer(str(vocabulary)).vocab_size + 7
    model = ChatGLMModel(ChatGLMConfig(padded_vocab_size=rows, **CONFIG | changes))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        tensor.data.normal_(1.0 if "norm" in name else 0.0, 0.1, generator=generator)
        tensor.data = tensor.data.half().float()
    return model.eval()


def state_of(model: Any, *, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + k: v.detach().half().contiguous() for k, v in model.state_dict().items()}


def write_shards(folder: Path, state: dict[str, Tensor], *, count: int, kind: str) -> None:
    """Shards and their index, named as the two published folders name them."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix, index = {
        "safetensors": ("model.fp16", "safetensors", "model.safetensors.index.fp16.json"),
        "bin": ("pytorch_model", "bin", "pytorch_model.bin.index.json"),
    }[kind]
    names = list(state)
    weight_map: dict[str, str] = {}
    for i in range(count):
        file = f"{stem}-{i + 1:05d}-of-{count:05d}.{suffix}"
        part = {name: state[name] for name in names[i::count]}
        save_file(part, folder / file) if kind == "safetensors" else torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_config(folder: Path, model: Any) -> None:
    real = {**CONFIG, "padded_vocab_size": model.config.padded_vocab_size, "layernorm_epsilon": 1e-5}
    extra = {
        "model_type": "chatglm",
        "auto_map": {"AutoModel": "m.ChatGLMModel"},
        "pre_seq_len": None,
        "bos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(real | extra))


def write_diffusers(root: Path, model: Any, vocabulary: Path) -> Path:
    """Kolors-diffusers: three safetensors shards, the tokenizer in a folder of its own."""
    write_shards(root / "text_encoder", state_of(model), count=3, kind="safetensors")
    write_config(root / "text_encoder", model)
    (root / "tokenizer").mkdir()
    for name in ("tokenizer.model", "vocab.txt"):
        (root / "tokenizer" / name).write_bytes(vocabulary.read_bytes())
    (root / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer"}))
    return root


def write_kolors(root: Path, model: Any, vocabulary: Path, *, prefix: str = "transformer.") -> Path:
    """Kwai-Kolors/Kolors: seven pickled shards, the tokenizer beside them."""
    write_shards(root / "text_encoder", state_of(model, prefix=prefix), count=7, kind="bin")
    write_config(root / "text_encoder", model)
    (root / "text_encoder" / "tokenizer.model").write_bytes(vocabulary.read_bytes())
    return root


def quantise(state: dict[str, Tensor], bits: int) -> dict[str, Tensor]:
    """As the ComfyUI packs' 8-bit and 4-bit files hold the layers: int8 and one scale a row."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        result[name] = tensor
        if name.endswith(QUANTISED):
            scale = tensor.abs().amax(1) / (2 ** (bits - 1) - 1)
            whole = torch.round(tensor / scale[:, None]).to(torch.int8)
            result[name] = whole if bits == 8 else pack(whole)
            result[name + "_scale"] = scale
    return result


def pack(whole: Tensor) -> Tensor:
    """Written out as the published C reference does it: out = (w[2i] << 4) | (w[2i + 1] & 15)."""
    packed = torch.empty(whole.shape[0], whole.shape[1] // 2, dtype=torch.uint8)
    for i in range(packed.shape[1]):
        packed[:, i] = ((whole[:, 2 * i].int() * 16) & 240 | whole[:, 2 * i + 1].int() & 15).to(torch.uint8)
    return packed.view(torch.int8)


def write_single(path: Path, model: Any, bits: int = 16) -> Path:
    """One safetensors of Kijai's or MinusZone's; no tokenizer comes with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = state_of(model)
    save_file(state if bits == 16 else quantise(state, bits), path)
    return path


def into_hub_cache(folder: Path, cache: Path) -> Path:
    """A model's folder as the hub's cache holds it: its files in blobs/, links to them in snapshots/."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = cache / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        link = cache / "snapshots" / "abcd" / path.relative_to(folder)
        for made in (blob, link):
            made.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(path.read_bytes())
        link.symlink_to(blob)
    return cache


def write_cogview4_text(folder: Path, corpus: list[str]) -> Path:
    """text_encoder/, a tiny GLM-4 in shards, and tokenizer/, as CogView4-6B has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import GlmConfig, GlmModel, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "[gMASK]", "<sop>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(corpus, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", special_tokens=[(name, bpe.token_to_id(name)) for name in specials[1:]]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=specials[0], padding_side="left")
    fast.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = GlmConfig(
        vocab_size=304, hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, pad_token_id=0, attention_bias=True,
    )  # fmt: skip
    GlmModel(config).save_pretrained(folder / "text_encoder", max_shard_size="20KB")
    return folder
