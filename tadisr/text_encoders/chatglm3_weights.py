"""ChatGLM3's weights as users have them, read one part at a time.

- a folder: `text_encoder` of Kolors-diffusers (safetensors shards) or of Kolors (7 pytorch_model-*.bin), the tensors'
  places in its index;
- one safetensors file of the ComfyUI packs, fp16, or with 8-bit or 4-bit layers: int8 `weight` and `weight_scale`.

What a file is shows in its table of tensors, never in its name.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.pickle_file import read_pickle
from ..checkpoints.tensor_index import Entry, Table, find_part_folder, list_shards, read_index, read_table
from ..errors import CheckpointError
from ..validation import parse_json, shorten_value

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


class Weights:
    """An encoder's tensors, read from their files when they are wanted; nothing is held."""

    def __init__(self, source: Path, table: Table, config: dict[str, Any]) -> None:
        self.source = source
        self.table = Table(table.where, {name.removeprefix(PREFIX): entry for name, entry in table.entries.items()})
        self.entries = self.table.entries
        lacking = [name for name in MARKS if name not in self.entries]
        if lacking:
            raise CheckpointError(
                f"{source} is not a whole ChatGLM3: it lacks {lacking[0]}. Kolors needs its own text encoder, no other "
                "will do."
            )
        self.config = {**CHATGLM3, **check_sizes(self.entries, source), **config}
        if not 1 <= self.config["num_layers"] <= len(self.entries):
            raise CheckpointError(
                f"{source} says it has {self.config['num_layers']} layers, but holds {len(self.entries)} tensors: "
                "it is damaged, download or copy it again."
            )

    def check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError unless every named tensor is there, in that shape or packed to it."""
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
            whole = entry.dtype == torch.int8 and scale is not None and scale.shape == shape[:1]
            if not (whole if scale is not None else entry.dtype.is_floating_point):
                raise CheckpointError(
                    f"{self.source}: {name} is quantised in a way that this version cannot read (known: int8 with one "
                    "weight_scale a row). Take the fp16 file instead."
                )

    def fill(self, module: nn.Module, prefix: str, device: torch.device, dtype: torch.dtype) -> None:
        """Give a module its tensors, those under `prefix`; quantised ones become what they stand for."""
        own = module.state_dict()
        tensors: dict[str, Tensor] = {}
        for name, stored in self.table.read({name: prefix + name for name in own}):
            stored = stored.to(device)
            values = stored if stored.shape == own[name].shape else unpack_int4(stored)
            tensors[name] = self.dequantize(prefix + name, values, dtype)
        module.load_state_dict(tensors, assign=True)

    def dequantize(self, name: str, stored: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a stored tensor in `dtype`, multiplied by its scales if it is quantized."""
        for _, scale in self.table.read({name: name + SCALE} if name + SCALE in self.entries else {}):
            return stored.to(dtype) * scale.to(stored.device, dtype)[:, None]
        return stored.to(dtype, copy=True)

    def embed(self, ids: Tensor) -> Tensor:
        """Read rows of the token embedding, as stored; only they are read."""
        entry = self.entries[EMBEDDING]
        width = entry.shape[1]
        rows = Table(str(self.source), {str(i): select_piece(entry, i * width, width) for i in ids.unique().tolist()})
        read = dict(rows.read({name: name for name in rows.entries}))
        return torch.stack([read[str(i)] for i in ids.tolist()])

    def digest(self) -> str:
        """Hash the tensors' names, shapes and a few values each: the same for one encoder in any of its containers."""
        named = {name: entry for name, entry in self.entries.items() if not name.endswith("inv_freq")}
        heads = Table(str(self.source), {name: select_piece(entry, 0, 8) for name, entry in named.items()})
        values = dict(heads.read({name: name for name in named}))
        lines = [
            f"{name} {named[name].shape} {values[name].to(torch.float16).view(torch.int16).tolist()}"
            for name in sorted(named)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def select_piece(entry: Entry, begin: int, count: int) -> Entry:
    """Select `count` numbers of a tensor from `begin`, flat, without reading them."""
    count = min(count, math.prod(entry.shape) - begin)
    if entry.held is not None:
        return Entry(entry.dtype, (count,), held=entry.held.flatten()[begin : begin + count])
    size = entry.dtype.itemsize
    return replace(entry, shape=(count,), begin=entry.begin + begin * size, bytes=count * size)


def open_weights(source: str | Path) -> Weights:
    """Open the encoder in a file or folder, also the whole Kolors folder or that of the hub's cache.

    Raises CheckpointError with one clear sentence.
    """
    source = find_part_folder(Path(source), "text_encoder")
    if source.is_dir():
        return Weights(source, folder_table(source), folder_config(source))
    return Weights(source, file_table(source), {})


def is_encoder(path: Path) -> bool:
    """Tell whether a file or folder is a ChatGLM3 by what its header or index names."""
    names = names_in(path)
    return all(name in names or PREFIX + name in names for name in MARKS)


def names_in(path: Path) -> set[str]:
    """Return the tensor names of a file's header or a folder's index, none where it cannot be read."""
    try:
        if path.is_dir():
            index = next((path / name for name in INDEXES if (path / name).is_file()), None)
            return set() if index is None else set(parse_json(index.read_text(encoding="utf-8"))["weight_map"])
        return set(read_file_header(path)) if path.is_file() else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def read_file_header(path: Path) -> dict[str, Any]:
    """Read a safetensors file's header; one far larger than ChatGLM's is not read. Raises OSError, ValueError."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return parse_json(file.read(size)) if size < LARGEST_HEADER else {}


def folder_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
        told = {name: data[name] for name in TOLD if data.get(name) is not None}
    except (ValueError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} is no JSON table ({error}): copy it again.") from error
    for name, value in told.items():
        known = CHATGLM3.get(name, 0)
        if type(value) is not type(known) or (not isinstance(value, bool) and not 0 <= value <= 2**31):
            raise CheckpointError(
                f"{path} has {name} {shorten_value(value)}, expected a value such as {known!r}: copy it again."
            )
    return told


def folder_table(folder: Path) -> Table:
    """List the folder's tensors. Raises CheckpointError when there are none, or a file that its index names is missing."""
    for name in INDEXES:
        if (folder / name).is_file():
            return pickled_shards(folder / name) if ".bin." in name else read_index(folder / name)
    for name in WHOLE:
        if (folder / name).is_file():
            return file_table(folder / name)
    raise CheckpointError(
        f"{folder} has no text encoder in it: expected {INDEXES[0]} or {INDEXES[3]} and the files they name, or {WHOLE[1]}."
    )


def file_table(path: Path) -> Table:
    return Table.of(load_bin(path), str(path)) if path.suffix == ".bin" else read_table(path)


def pickled_shards(index: Path) -> Table:
    """Map all pickles that an index lists into memory."""
    try:
        files = list_shards(parse_json(index.read_text(encoding="utf-8")))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error}): copy it again.") from error
    tensors = {name: tensor for file in files for name, tensor in load_bin(index.parent / file).items()}
    return Table.of(tensors, str(index.parent))


def load_bin(path: Path) -> dict[str, Tensor]:
    """Map the tensors of a pytorch_model-*.bin into memory. Raises CheckpointError."""
    state = read_pickle(path, "Download or copy it again.")
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise CheckpointError(
            f"{path} is not a file of PyTorch weights (no table of tensors): download or copy it again."
        )
    return state


def check_sizes(entries: dict[str, Entry], source: Path) -> dict[str, Any]:
    """Derive the sizes. Raises CheckpointError for shapes that are not ChatGLM3's."""
    try:
        return derive_sizes(entries)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        shapes = {name: entries[name].shape for name in MARKS}
        raise CheckpointError(
            f"{source} is not a ChatGLM3: its shapes are {shapes}. Download or copy it again."
        ) from error


def derive_sizes(entries: dict[str, Entry]) -> dict[str, Any]:
    """Derive the part of the config that the shapes tell."""
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


def unpack_int4(packed: Tensor) -> Tensor:
    """Unpack two signed 4-bit values a byte, int8 (rows, n) -> (rows, 2n): the even column is the high half.

    As ChatGLM's published reference (compress_int4_weight) packs them; shifts of int8 keep the sign.
    """
    return torch.stack([packed >> 4, (packed << 4) >> 4], -1).flatten(1)
