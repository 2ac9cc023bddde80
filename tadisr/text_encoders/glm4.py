"""CogView4's GLM-4 as a prompt encoder: transformers' own GlmModel, run once, one layer in memory at a time.

The prompt is encoded once and kept (`tadisr.prompt`); nothing here runs when an image is upscaled.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.tensor_index import Table, find_part_folder, read_index, read_table
from ..errors import CheckpointError, TADiSRError
from ..file_digest import hash_file
from ..model.precision import place_tensor
from ..presets import COGVIEW4_PROMPT
from ..prompt import EncodedPrompt
from ..validation import parse_json, shorten_value
from .chatglm3_weights import names_in
from .layer_streaming import Progress, stream_layers
from .word_positions import find_word_positions

TEXT = COGVIEW4_PROMPT
HALF = torch.bfloat16
MULTIPLE = 16  # CogView4 pads every prompt to a multiple of it, on the left
LONGEST = 1024  # tokens; what is beyond is cut
FILES = ("model.safetensors.index.json", "model.safetensors")
PREFIX = "model."  # of the whole language model's files
MARKS = ("layers.0.self_attn.q_proj.weight", "layers.0.mlp.gate_up_proj.weight")  # of GLM-4, together in no ChatGLM3
FETCH = "python -m tadisr download cogview4 --parts text_encoder tokenizer"


def is_glm(path: str | Path) -> bool:
    """Tell whether the text encoder in this folder is a GLM-4, CogView4's, and not Kolors' ChatGLM3.

    Its config.json says so; where that is missing, the names of its tensors.
    """
    folder = encoder_folder(Path(path))
    config = folder / "config.json"
    try:
        if config.is_file():
            return '"glm"' in config.read_text("utf-8")
    except (OSError, ValueError):  # unreadable, or no text
        return False
    names = (names_in(folder) or names_in(folder / FILES[1])) if folder.is_dir() else ()
    return all(name in names or PREFIX + name in names for name in MARKS)


@torch.no_grad()
def encode_prompt(
    text_encoder: str | Path,
    *,
    tokenizer: str | Path | None = None,
    text: str = TEXT,
    word: str = "text",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> EncodedPrompt:
    """Encode a prompt for CogView4's transformer (last but one hidden state) and find its target tokens.

    text_encoder: the CogView4 folder, also of the hub's cache, or its text_encoder folder; tokenizer: its folder, by itself
    looked for beside the encoder. dtype None: fp32 on a CPU, else bf16. progress(done, layers) after every layer; raise
    inside it to cancel.
    Raises CheckpointError for files that are missing, broken or foreign, ConfigError for a word that is not in the text.
    """
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else HALF)
    folder = encoder_folder(Path(text_encoder))
    table = open_weights(folder)
    vocabulary = find_vocabulary(folder, tokenizer)
    ids, mask, positions = tokenize_prompt(load_tokenizer(vocabulary), text, word)
    model, names = build_skeleton(folder, table)
    model.rotary_emb = type(model.rotary_emb)(model.config).to(device)  # computed, in no file

    def fill(module: nn.Module, prefix: str) -> None:
        own = {name: names[prefix + name] for name in module.state_dict()}
        for name, tensor in read_mapped(table, own).items():
            place_tensor(module, name, tensor.to(device), dtype=dtype)

    fill(model.norm, "norm.")
    stream_layers(model.layers, lambda layer, number: fill(layer, f"layers.{number}."), progress)
    rows = read_mapped(table, {"": names["embed_tokens.weight"]})[""]
    if max(ids) >= len(rows):
        raise CheckpointError(f"{vocabulary} has token {max(ids)}, the encoder {folder} {len(rows)}: it is another's.")
    states = model(
        inputs_embeds=rows[ids][None].to(device, dtype), output_hidden_states=True, use_cache=False, return_dict=True
    ).hidden_states  # fmt: skip
    embedding = states[-2].float().cpu()
    if not embedding.isfinite().all():
        raise CheckpointError(f"{folder} gave NaN or infinite values in {dtype}: encode in fp32 instead.")
    return EncodedPrompt(
        embedding=embedding.contiguous(), pooled=None, mask=torch.tensor(mask), positions=torch.tensor(positions),
        **record_of(folder, vocabulary, text, word),
    )  # fmt: skip


def record_of(text_encoder: str | Path, vocabulary: Path, text: str, word: str) -> dict[str, str]:
    """Return text, word and digests of encoder and tokenizer; a prompt with an equal `record` need not be encoded again."""
    encoder = hash_encoder(open_weights(encoder_folder(Path(text_encoder))))
    tokenizer = hash_file(vocabulary)
    return {"text": text, "word": word, "encoder": encoder, "tokenizer": tokenizer}


# ---- the model ------------------------------------------------------------------------------------------------------


def encoder_folder(path: Path) -> Path:
    return find_part_folder(path, "text_encoder")


def open_weights(folder: Path) -> Table:
    for name in FILES:
        path = folder / name
        if path.is_file():
            return read_index(path) if path.suffix == ".json" else read_table(path)
    raise CheckpointError(
        f"{folder} has neither {FILES[0]} nor {FILES[1]}: give the CogView4 folder or its text_encoder folder, which "
        f"{FETCH} fetches."
    )


def build_skeleton(folder: Path, table: Table) -> tuple[Any, dict[str, str]]:
    """Build the model without its weights; return it and {name in it: name in the files}.

    Raises CheckpointError where the two differ.
    """
    try:
        from transformers import GlmConfig, GlmModel
    except ImportError as error:
        raise TADiSRError(
            f"Encoding a prompt needs transformers>=4.46: pip install 'tadisr[prompt]' ({error})."
        ) from error
    try:
        config = GlmConfig(**parse_json((folder / "config.json").read_text("utf-8")))
        layers = config.num_hidden_layers
        if not isinstance(layers, int) or not 1 <= layers <= len(table.entries):
            raise ValueError(
                f"its num_hidden_layers is {shorten_value(layers)}, the files hold {len(table.entries)} tensors"
            )
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has CogView4's GLM-4 in it, but not its config.json: put that of CogView4-6B's text_encoder folder "
            f"beside the weights, or fetch the folder with {FETCH}."
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder} has no config.json of a GLM in it ({error}): download it again.") from error
    try:
        with torch.device("meta"):
            model = GlmModel(config).eval().requires_grad_(False)
    except Exception as error:  # whatever transformers raises for values that fit no model
        raise CheckpointError(
            f"{folder}/config.json describes no GLM ({_first_line(error)}): download it again."
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    prefix = PREFIX if PREFIX + "norm.weight" in table.entries else ""
    names = {name: prefix + name for name in shapes}
    wrong = [n for n, there in names.items() if there not in table.entries or table.entries[there].shape != shapes[n]]
    if wrong:
        raise CheckpointError(
            f"{table.where} is not the GLM of its config.json: {len(wrong)} of {len(names)} tensors are missing or of another "
            f"shape, the first {wrong[0]}. Download the text_encoder folder again."
        )
    return model, names


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def read_mapped(table: Table, names: dict[str, str]) -> dict[str, Tensor]:
    return dict(table.read(names, lambda *_: True))


def hash_encoder(table: Table) -> str:
    """Hash the encoder's norms, which are small and in every layer."""
    small = sorted(name for name in table.entries if name.endswith("norm.weight"))
    found = hashlib.sha256()
    for name in small:
        tensor = read_mapped(table, {name: name})[name]
        found.update(f"{name} {tensor.flatten().to(torch.float32).numpy().tobytes().hex()}".encode())
    return found.hexdigest()


# ---- the tokenizer --------------------------------------------------------------------------------------------------


def find_vocabulary(text_encoder: str | Path, tokenizer: str | Path | None) -> Path:
    """Find tokenizer.json: of the folder given, or beside the encoder. Raises CheckpointError where there is none."""
    folder = encoder_folder(Path(text_encoder))
    places = [folder, folder.parent / "tokenizer"]
    if tokenizer is not None:
        given = find_part_folder(Path(tokenizer), "tokenizer")
        places = [given, given.parent]
    for place_ in places:
        if (place_ / "tokenizer.json").is_file():
            return place_ / "tokenizer.json"
    raise CheckpointError(
        f"There is no tokenizer.json in {places[0]}: fetch the tokenizer folder of THUDM/CogView4-6B, put it beside "
        "text_encoder."
    )


def load_tokenizer(vocabulary: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(vocabulary.parent, local_files_only=True)
    except Exception as error:  # tokenizers raises plain Exception for a file it cannot read
        raise CheckpointError(f"{vocabulary} cannot be read ({error}): download or copy it again.") from error


def tokenize_prompt(tokenizer: Any, text: str, word: str) -> tuple[list[int], list[int], list[int]]:
    """Return ids, mask (0: a pad), positions of the word: padded on the left to a multiple of 16, as CogView4 does it."""
    encoded = tokenizer(text, max_length=LONGEST, truncation=True, return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    pads = -len(ids) % MULTIPLE
    read_so_far = text[: max(end for _, end in offsets)]  # the rest was cut
    places = find_word_positions(list(read_so_far), word)  # of its characters
    begin, end = places[0], places[-1] + 1
    positions = [pads + i for i, (a, b) in enumerate(offsets) if a < end and b > begin]
    if tokenizer.pad_token_id is None:
        raise CheckpointError("The tokenizer has no pad token: it is not CogView4's.")
    return [tokenizer.pad_token_id] * pads + ids, [0] * pads + [1] * len(ids), positions
