"""Kolors' ChatGLM3 as a prompt encoder: diffusers' own model, run once, one layer in memory at a time.

The prompt is encoded once and kept (`tadisr.prompt`); nothing here runs when an image is upscaled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.tensor_index import find_part_folder
from ..config import PromptConfig
from ..errors import CheckpointError, ConfigError, TADiSRError
from ..file_digest import hash_file
from ..prompt import EncodedPrompt
from .chatglm3_weights import Weights, open_weights
from .layer_streaming import Progress, stream_layers
from .word_positions import find_word_positions

TEXT = PromptConfig.text
HALF = torch.float16  # as Kolors runs
TOKENS = PromptConfig.tokens  # Kolors pads and cuts every prompt to as many
VOCABULARY = "tokenizer.model"
UNUSED = ("output_layer.", "rotary_pos_emb.")  # the language model's head; what the model computes by itself
SPARE = 1024  # the table of tokens is padded by fewer rows


@torch.no_grad()
def encode_prompt(
    text_encoder: str | Path,
    *,
    tokenizer: str | Path | None = None,
    text: str = TEXT,
    word: str = PromptConfig.word,
    tokens: int = TOKENS,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> EncodedPrompt:
    """Encode a prompt for Kolors' U-Net and find the positions of its target tokens.

    text_encoder: the Kolors folder, its text_encoder folder, or one safetensors file. tokenizer: tokenizer.model or a
    folder with it; by itself it is looked for beside the encoder. dtype None: fp32 on a CPU, else fp16, as Kolors runs.
    progress(done, layers) after every layer; raise inside it to cancel.
    Raises CheckpointError for files that are missing, broken or foreign, ConfigError for a word that is not in the text.
    """
    device = torch.device(device)
    dtype = dtype or (torch.float32 if device.type == "cpu" else HALF)
    weights = open_weights(text_encoder)
    vocabulary = find_vocabulary(weights.source, tokenizer)
    ids, mask, position_ids, pieces = tokenize_prompt(load_tokenizer(vocabulary, weights), text, tokens)
    try:
        positions = find_word_positions(pieces, word)
    except ConfigError as error:
        if mask.all():  # no pad is left: the prompt fills the row, and may have been cut
            raise ConfigError(f"{error} Only {tokens} tokens are read: the prompt is cut off there.") from error
        raise

    model = build_skeleton(weights)
    model.rotary_pos_emb.inv_freq = torch.empty(0, device=device, dtype=dtype)  # read for where and in what to compute
    weights.fill(model.encoder.final_layernorm, "encoder.final_layernorm.", device, dtype)

    def fill_layer(layer: nn.Module, number: int) -> None:
        weights.fill(layer, f"encoder.layers.{number}.", device, dtype)

    stream_layers(model.encoder.layers, fill_layer, progress)
    rows = weights.embed(ids[0])[:, None].to(device, dtype)  # (tokens, 1, width)
    states = model(
        input_ids=ids.to(device), inputs_embeds=rows, attention_mask=mask.to(device),
        position_ids=position_ids.to(device), output_hidden_states=True, use_cache=False, return_dict=True,
    ).hidden_states  # fmt: skip
    embedding, pooled = states[-2].transpose(0, 1).float().cpu(), states[-1][-1].float().cpu()
    if not (embedding.isfinite().all() and pooled.isfinite().all()):
        raise CheckpointError(f"{weights.source} gave NaN or infinite values in {dtype}: encode in fp32 instead.")
    return EncodedPrompt(
        embedding=embedding.contiguous(), pooled=pooled.contiguous(), mask=mask[0], positions=torch.tensor(positions),
        **record_of(weights.source, vocabulary, text, word),
    )  # fmt: skip


def record_of(text_encoder: str | Path, vocabulary: Path, text: str, word: str) -> dict[str, str]:
    """Return text, word and digests of encoder and tokenizer; a prompt with an equal `record` need not be encoded again."""
    encoder = open_weights(text_encoder).digest()
    tokenizer = hash_file(vocabulary)
    return {"text": text, "word": word, "encoder": encoder, "tokenizer": tokenizer}


# ---- the model ------------------------------------------------------------------------------------------------------


def build_skeleton(weights: Weights) -> Any:
    """Build the model without its weights (but for those that every call needs), checked against what the files hold."""
    _, model_class, config_class = kolors_classes()
    model = model_class(config_class(**weights.config, use_cache=False), device="meta").eval().requires_grad_(False)
    weights.check({k: tuple(v.shape) for k, v in model.state_dict().items() if not k.startswith(UNUSED)})
    return model


def kolors_classes() -> tuple[Any, Any, Any]:
    """Import diffusers' tokenizer, model and config of ChatGLM. Raises TADiSRError where they cannot be imported."""
    try:
        from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig, ChatGLMModel
        from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
    except (ImportError, RuntimeError, AttributeError) as error:
        raise TADiSRError(
            f"Encoding a prompt needs diffusers>=0.37, transformers and sentencepiece: pip install 'tadisr[prompt]' ({error})."
        ) from error
    return ChatGLMTokenizer, ChatGLMModel, ChatGLMConfig


# ---- the tokenizer --------------------------------------------------------------------------------------------------


def find_vocabulary(text_encoder: str | Path, tokenizer: str | Path | None) -> Path:
    """Find tokenizer.model: the one given, or the one beside the encoder. Raises CheckpointError where there is none."""
    source = Path(text_encoder)
    if tokenizer is not None:
        given = Path(tokenizer)
        folders = [given, find_part_folder(given, "tokenizer"), find_part_folder(given, "text_encoder")]
        places = [given, *(folder / VOCABULARY for folder in folders)]
    else:
        folder = source if source.is_dir() else source.parent
        places = [folder / VOCABULARY, folder / "tokenizer" / VOCABULARY, folder.parent / "tokenizer" / VOCABULARY]
    for place in places:
        if place.is_file():
            return place
    raise CheckpointError(
        f"There is no {VOCABULARY} {f'in {tokenizer}' if tokenizer is not None else f'beside {source}'}: fetch "
        f"tokenizer/{VOCABULARY} of Kwai-Kolors/Kolors-diffusers (1 MB, python -m tadisr download kolors --parts tokenizer) "
        f"and put it into {places[0].parent}."
    )


def load_tokenizer(vocabulary: Path, weights: Weights) -> Any:
    """Load diffusers' tokenizer from the file. Raises CheckpointError for a file of another kind or of another encoder."""
    tokenizer_class, _, _ = kolors_classes()
    try:
        tokenizer = tokenizer_class(str(vocabulary))
    except ImportError as error:
        raise TADiSRError(
            "The tokenizer needs sentencepiece: pip install sentencepiece, or 'tadisr[prompt]'."
        ) from error
    except (RuntimeError, OSError) as error:
        raise CheckpointError(
            f"{vocabulary} is not a SentencePiece model ({error}): download or copy it again."
        ) from error
    known, rows = tokenizer.vocab_size, weights.config["padded_vocab_size"]
    if not known <= rows < known + SPARE:
        raise CheckpointError(
            f"{vocabulary} knows {known} tokens, the text encoder {weights.source} has rows for {rows}: it is another "
            "model's. Give the one of Kolors or ChatGLM3."
        )
    return tokenizer


def tokenize_prompt(tokenizer: Any, text: str, tokens: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """Return ids, mask, position ids (1, tokens), padded on the left as Kolors does, and each token's piece of text."""
    inputs = tokenizer(text, padding="max_length", max_length=tokens, truncation=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    special = tokenizer.tokenizer.index_special_tokens
    pieces = [
        tokenizer.convert_ids_to_tokens(i) if real and i not in special else ""
        for i, real in zip(ids[0].tolist(), mask[0].tolist(), strict=True)
    ]
    return ids, mask, inputs["position_ids"], pieces
