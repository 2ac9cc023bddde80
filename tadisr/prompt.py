"""The embedding of the fixed prompt, where its word "text" sits, and the small file that keeps both."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .config import PromptConfig
from .errors import CheckpointError
from .safetensors_file import read_table, write_safetensors
from .validation import parse_json

FORMAT = "1"
MARK = "tadisr.prompt.format"  # in the header of a prompt file, and of no other


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedPrompt:
    """The embeddings of a prompt and the positions of its target tokens; on the CPU, float32."""

    embedding: Tensor  # (1, tokens, width)
    pooled: Tensor | None  # (1, pooled) if the base takes one
    mask: Tensor  # (tokens,) int64, 0: a pad. Kept as a record: Kolors' U-Net attends to the pads as well
    positions: Tensor  # (P,) int64, of the word's tokens
    text: str
    word: str
    encoder: str = ""  # digests of what made it
    tokenizer: str = ""

    @property
    def record(self) -> dict[str, str]:
        """Return text, target word, and digests of text encoder and tokenizer."""
        return {name: getattr(self, name) for name in ("text", "word", "encoder", "tokenizer")}

    def save(self, path: str | Path) -> None:
        """Write the prompt file, whole or not at all."""
        header = {"format": "pt", MARK: FORMAT, "tadisr.prompt": json.dumps(self.record, ensure_ascii=False)}
        write_safetensors(Path(path), self.tensors(), header)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their names in a prompt file."""
        named = {"embedding": self.embedding, "mask": self.mask, "positions": self.positions}
        return named if self.pooled is None else named | {"pooled": self.pooled}

    def equals(self, other: EncodedPrompt) -> bool:
        """Tell whether two prompts are equal bit for bit."""
        mine, theirs = self.tensors(), other.tensors()
        return (
            self.record == other.record
            and mine.keys() == theirs.keys()
            and all(torch.equal(mine[name], theirs[name]) for name in mine)
        )


def is_prompt(path: str | Path) -> bool:
    """Tell from its header whether a file is a prompt file; False if it cannot be read."""
    try:
        return MARK in read_table(path, whole=False).metadata
    except CheckpointError:
        return False


def read_prompt(path: str | Path) -> EncodedPrompt:
    """Read a prompt file. Raises CheckpointError if it is missing, truncated, foreign or inconsistent."""
    path = Path(path)
    table = read_table(path)
    header = table.metadata
    if MARK not in header:
        raise CheckpointError(
            f"{path} is no prompt file: its header has no {MARK}. Make one with python -m tadisr prompt."
        )
    if header[MARK] != FORMAT:
        raise CheckpointError(f"{path} has prompt format {header[MARK]}, this version reads {FORMAT}: update the pack.")
    tensors = dict(table.read({name: name for name in table.entries}))
    try:
        record = parse_json(header["tadisr.prompt"])
        if not all(isinstance(value, str) for value in record.values()):
            raise ValueError("its record holds more than texts")
        prompt = EncodedPrompt(**({"pooled": None} | tensors | record))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is a prompt file this version cannot read: {error}") from error
    check_prompt(prompt, path)
    return prompt


def check_prompt(prompt: EncodedPrompt, path: Path) -> None:
    """Raise CheckpointError unless the tensors have the dtypes of a prompt, fit one another and are finite."""
    for name, tensor in prompt.tensors().items():
        whole = name in ("mask", "positions")
        if tensor.dtype not in (
            (torch.int64, torch.int32) if whole else (torch.float32, torch.float16, torch.bfloat16)
        ):
            raise CheckpointError(
                f"{path} has {name} in {str(tensor.dtype).removeprefix('torch.')}, expected "
                f"{'int64' if whole else 'float32, float16 or bfloat16'}: encode the prompt again."
            )
    tokens = prompt.embedding.shape[1] if prompt.embedding.ndim == 3 else 0
    sound = (
        tokens > 0
        and prompt.embedding.shape[0] == 1
        and (prompt.pooled is None or (prompt.pooled.ndim == 2 and len(prompt.pooled) == 1))
        and prompt.mask.shape == (tokens,)
        and prompt.positions.ndim == 1
        and len(prompt.positions) > 0
        and bool(((prompt.positions >= 0) & (prompt.positions < tokens)).all())
        and bool(prompt.mask[prompt.positions].all())
    )
    if not sound:
        shapes = {name: tuple(tensor.shape) for name, tensor in prompt.tensors().items()}
        raise CheckpointError(f"{path} does not fit together ({shapes}): encode the prompt again.")
    if not all(tensor.isfinite().all() for tensor in prompt.tensors().values()):
        raise CheckpointError(f"{path} has NaN or infinite values: encode the prompt again, in fp32.")


class Prompt(nn.Module):
    """c_y of Sec. 3.1, kept with the weights so that no text encoder is needed to upscale.

    `embedding` (1, tokens, width), `pooled` (1, pooled) if the base takes one, `positions` (P,) of the word's tokens.
    In the compact model the rows are parameters, one for each phrase of the prompt, the last of them "text".
    """

    embedding: Tensor
    pooled: Tensor | None
    positions: Tensor

    def __init__(self, config: PromptConfig) -> None:
        super().__init__()
        self.config = config
        rows = (
            torch.randn(1, config.tokens, config.width)
            if config.learned
            else torch.zeros(1, config.tokens, config.width)
        )
        if config.learned:
            self.embedding = nn.Parameter(rows)
        else:
            self.register_buffer("embedding", rows)
        self.register_buffer("pooled", torch.zeros(1, config.pooled) if config.pooled else None)
        self.register_buffer("positions", torch.tensor([config.tokens - 1]))

    def replace_by(self, encoded: EncodedPrompt) -> Prompt:
        """Return a Prompt of other embeddings on the same device and dtype, with its config.

        Raises CheckpointError for one of another width, and where the prompt is part of the weights.
        """
        if self.config.learned:
            raise CheckpointError(
                "This model's prompt is part of its weights (no text encoder made it): a prompt file cannot replace it, "
                "leave it out."
            )
        pooled = 0 if encoded.pooled is None else encoded.pooled.shape[1]
        if (encoded.embedding.shape[2], pooled) != (self.config.width, self.config.pooled):
            raise CheckpointError(
                f"The prompt file is {encoded.embedding.shape[2]} wide and {pooled} pooled, the model takes "
                f"{self.config.width} and {self.config.pooled}: encode the prompt with the text encoder of its base."
            )
        prompt = Prompt(
            dataclasses.replace(
                self.config, text=encoded.text, word=encoded.word, tokens=encoded.embedding.shape[1]
            )
        )  # fmt: skip
        prompt.embedding, prompt.pooled = encoded.embedding, encoded.pooled
        prompt.positions = encoded.positions
        return prompt.to(self.embedding.device, self.embedding.dtype)

    def find_word_rows(self, position: int | None) -> Tensor:
        """Return the rows of the target tokens, or the one row that a config names instead."""
        return self.positions if position is None else torch.tensor([position], device=self.positions.device)

    def conditions(self, batch: int, size: tuple[int, int] = (0, 0), like: Tensor | None = None) -> dict[str, Any]:
        """Return the arguments that pass the prompt to a denoiser, for a batch of images of `size` (height, width).

        like: a tensor whose type and device they get; None: the prompt's own.
        """
        like = self.embedding if like is None else like
        conditions: dict[str, Any] = {"encoder_hidden_states": self.embedding.to(like).expand(batch, -1, -1)}
        added: dict[str, Tensor] = {}
        if self.pooled is not None:
            added["text_embeds"] = self.pooled.to(like).expand(batch, -1)
        time_ids = (*size, 0, 0, *size) if self.config.time_ids is None else self.config.time_ids
        if time_ids:
            added["time_ids"] = torch.tensor([time_ids]).to(like).expand(batch, -1)
        return conditions | ({"added_cond_kwargs": added} if added else {})


def use_prompt(model: Any, encoded: EncodedPrompt) -> None:
    """Replace a model's prompt for good, in its config too, so that saving keeps it."""
    model.prompt = model.prompt.replace_by(encoded)
    model.config = dataclasses.replace(model.config, prompt=model.prompt.config)


@contextmanager
def with_prompt(model: Any, encoded: EncodedPrompt | None) -> Iterator[None]:
    """Replace a model's prompt while the block runs; None leaves it."""
    own = model.prompt
    model.prompt = own if encoded is None else own.replace_by(encoded)
    try:
        yield
    finally:
        model.prompt = own
