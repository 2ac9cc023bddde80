"""ChatGLM3's weights as users have them, read one part at a time.

- a folder: `text_encoder` of Kolors-diffusers (safetensors shards) or of Kolors (7 pytorch_model-*.bin), the tensors'
  places in its index;
- one safetensors file of the ComfyUI packs, fp16, or with 8-bit or 4-bit layers: int8 `weight` and `weight_scale`.

What a file is shows in its table of tensors, never in its name.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError

# What no table of tensors tells of ChatGLM3-6B-Base; the names that a config.json may tell otherwise.
CHATGLM3: dict[str, Any] = {
    "kv_channels": 128, "seq_length": 32768, "multi_query_attention": True, "multi_query_group_num": 2,
    "rmsnorm": True, "layernorm_epsilon": 1e-5, "add_qkv_bias": True, "add_bias_linear": False,
    "post_layer_norm": True, "apply_residual_connection_post_layernorm": False, "original_rope": True,
    "fp32_residual_connection": False, "hidden_dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
TOLD = (*CHATGLM3, "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size", "num_attention_heads")
PREFIX = "transformer."  # of the chat model's own files
EMBEDDING = "embedding.word_embeddings.weight"
ATTENTION, FEED = "encoder.layers.0.self_attention.", "encoder.layers.0.mlp."
MARKS = (  # in every whole encoder, and no shard of one has them all
    EMBEDDING, f"{ATTENTION}query_key_value.weight", f"{ATTENTION}dense.weight", f"{FEED}dense_h_to_4h.weight",
    "encoder.final_layernorm.weight",
)  # fmt: skip
SCALE = "_scale"
LARGEST_HEADER = 1 << 18  # bytes; ChatGLM3's is 40 KB
INDEXES = (
    "model.safetensors.index.fp16.json", "model.safetensors.index.json",
    "pytorch_model.bin.index.fp16.json", "pytorch_model.bin.index.json",
)  # fmt: skip
WHOLE = ("model.fp16.safetensors", "model.safetensors", "pytorch_model.fp16.bin", "pytorch_model.bin")


@dataclass(frozen=True)
class Entry:
    """Where a tensor is, and what it is there."""

    path: Path
    name: str  # in its file
    shape: tuple[int, ...]
    integer: bool


class Weights:
    """The table of an encoder's tensors. Nothing is held: the files are mapped while something is taken from them."""

    def __init__(self, source: Path, entries: dict[str, Entry], config: dict[str, Any]) -> None:
        self.source, self.entries = source, entries
        self.config = {**CHATGLM3, **sizes(entries), **config}

    def check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raises CheckpointError unless every tensor named is there, in that shape or packed to it."""
        missing = sorted(shapes.keys() - self.entries.keys())
        if missing:
            raise CheckpointError(
                f"{self.source} lacks {missing[0]} ({len(missing)} of {len(shapes)} tensors missing): it is not whole, "
                "download or copy it again."
            )
        for name, shape in shapes.items():
            entry, scale = self.entries[name], self.entries.get(name + SCALE)
            packed = scale is not None and entry.shape == (shape[0], shape[1] // 2)
            if entry.shape != shape and not packed:
                raise CheckpointError(f"{self.source}: {name} is {entry.shape}, a ChatGLM3 of its sizes has {shape}.")
            if entry.integer != (scale is not None) or (scale is not None and scale.shape != shape[:1]):
                raise CheckpointError(
                    f"{self.source}: {name} is quantised in a way that this version cannot read (known: int8 with one "
                    "weight_scale a row). Take the fp16 file instead."
                )

    def fill(self, module: nn.Module, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
        """Give a module its tensors, those under `prefix`; quantised ones become what they stand for."""
        own = module.state_dict()
        tensors: dict[str, Tensor] = {}
        for path in sorted({self.entries[prefix + name].path for name in own}):
            with open_file(path) as read:
                for name, tensor in own.items():
                    entry = self.entries[prefix + name]
                    if entry.path == path:
                        wide = entry.shape == tuple(tensor.shape)
                        stored = read(entry.name).to(device)
                        tensors[name] = self.scaled(prefix + name, stored if wide else unpack(stored), dtype)
        module.load_state_dict(tensors, assign=True)

    def scaled(self, name: str, stored: Tensor, dtype: torch.dtype) -> Tensor:
        scale = self.entries.get(name + SCALE)
        if scale is None:
            return stored.to(dtype, copy=True)
        with open_file(scale.path) as read:
            return stored.to(dtype) * read(scale.name).to(stored.device, dtype)[:, None]

    def embed(self, ids: Tensor) -> Tensor:
        """Rows of the table of tokens, as stored; only they are read."""
        entry = self.entries[EMBEDDING]
        with open_file(entry.path) as read:
            return read(entry.name)[ids].clone()

    def digest(self) -> str:
        """By the tensors' names, shapes and a few values each: the same for one encoder in any of its containers."""
        heads: dict[str, list[int]] = {}
        for path in sorted({entry.path for entry in self.entries.values()}):
            with open_file(path) as read:
                for name, entry in self.entries.items():
                    if entry.path == path and not name.endswith("inv_freq"):
                        heads[name] = read(entry.name).flatten()[:8].to(torch.float16).view(torch.int16).tolist()
        lines = [f"{name} {self.entries[name].shape} {heads[name]}" for name in sorted(heads)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def open_weights(source: str | Path) -> Weights:
    """The encoder in a file or folder (also the whole Kolors folder). Raises CheckpointError with one clear sentence."""
    source = Path(source)
    if (source / "text_encoder").is_dir():
        source = source / "text_encoder"
    if source.is_dir():
        entries = {name: entry for path in shards(source) for name, entry in table(path).items()}
        config = folder_config(source)
    else:
        entries, config = table(source), {}
    lacking = [name for name in MARKS if name not in entries]
    if lacking:
        raise CheckpointError(
            f"{source} is not a whole ChatGLM3: it lacks {lacking[0]}. Kolors needs its own text encoder, no other will do."
        )
    return Weights(source, entries, config)


def is_encoder(path: Path) -> bool:
    """Whether a file or folder is a ChatGLM3 by what its header or index names; cheap, nothing else is read."""
    try:
        if path.is_dir():
            index = next((path / name for name in INDEXES if (path / name).is_file()), None)
            names = {} if index is None else json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:
            names = header(path)
        return all(name in names or PREFIX + name in names for name in MARKS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def header(path: Path) -> dict[str, Any]:
    """A safetensors file's header as it stands; one far larger than ChatGLM's is not read. Raises OSError, ValueError."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)) if size < LARGEST_HEADER else {}


def folder_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: data[name] for name in TOLD if data.get(name) is not None}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is no JSON table ({error}): copy it again.") from error


def shards(folder: Path) -> list[Path]:
    """The folder's weights files. Raises CheckpointError when there are none, or one that its index names is missing."""
    for name in INDEXES:
        if not (folder / name).is_file():
            continue
        try:
            files = sorted(set(json.loads((folder / name).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / name} is no index of shards ({error}): copy it again.") from error
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} lacks {missing[0]}: {len(missing)} of the {len(files)} files that {name} names are missing, "
                "copy the rest of the download."
            )
        return [folder / file for file in files]
    for name in WHOLE:
        if (folder / name).is_file():
            return [folder / name]
    raise CheckpointError(
        f"{folder} has no text encoder in it: expected {INDEXES[0]} or {INDEXES[3]} and the files they name, or {WHOLE[1]}."
    )


def sizes(entries: dict[str, Entry]) -> dict[str, Any]:
    """The part of the config that the shapes tell."""
    vocabulary, hidden = entries[EMBEDDING].shape
    layers = [int(name.split(".")[2]) for name in entries if name.startswith("encoder.layers.")]
    inverse = entries.get("rotary_pos_emb.inv_freq")
    channels = 4 * inverse.shape[0] if inverse is not None else CHATGLM3["kv_channels"]
    rows, width = entries[f"{ATTENTION}query_key_value.weight"].shape
    queries = entries[f"{ATTENTION}dense.weight"].shape[1] * (2 if width * 2 == hidden else 1)  # packed 4-bit values
    return {
        "num_layers": max(layers) + 1,
        "padded_vocab_size": vocabulary,
        "hidden_size": hidden,
        "ffn_hidden_size": entries[f"{FEED}dense_h_to_4h.weight"].shape[0] // 2,
        "kv_channels": channels,
        "num_attention_heads": queries // channels,
        "multi_query_group_num": (rows - queries) // (2 * channels),
    }


def unpack(packed: Tensor) -> Tensor:
    """Two signed 4-bit values a byte, int8 (rows, n) -> (rows, 2n): the even column is the high half.

    As ChatGLM's published reference (compress_int4_weight) packs them; shifts of int8 keep the sign.
    """
    return torch.stack([packed >> 4, (packed << 4) >> 4], -1).flatten(1)


# ---- files ----------------------------------------------------------------------------------------------------------


def table(path: Path) -> dict[str, Entry]:
    """A file's tensors by name, the chat model's prefix taken off; no tensor is read."""
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            found = [
                Entry(path, name, tuple(s.get_shape()), not str(s.get_dtype()).startswith(("F", "BF")))
                for name, s in slices.items()
            ]
    else:
        found = [
            Entry(path, name, tuple(tensor.shape), not tensor.is_floating_point())
            for name, tensor in load_bin(path).items()
        ]
    return {entry.name.removeprefix(PREFIX): entry for entry in found}


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Yields a function from a tensor's name to the tensor, mapped from the file while it is open."""
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            yield file.get_tensor
    else:
        yield load_bin(path).__getitem__


def open_safetensors(path: Path) -> Any:
    check_present(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): download or copy it again."
        ) from error


def load_bin(path: Path) -> dict[str, Tensor]:
    """A pytorch_model-*.bin, tensors only and mapped, not read."""
    check_present(path)
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise TypeError("no table of tensors in it")
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole file of PyTorch weights ({str(error).splitlines()[0]}): download or copy it again."
        ) from error
    return state


def check_present(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    with path.open("rb") as file:
        if file.read(64).startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{path} is a git-lfs pointer, not the weights: fetch it with git lfs pull.")
