"""The embedding of the fixed prompt, and where its word "text" sits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import PromptConfig


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

    def word_positions(self, position: int | None) -> Tensor:
        """The word's rows, or the one row that a config names instead."""
        return self.positions if position is None else torch.tensor([position], device=self.positions.device)

    def conditions(self, batch: int, size: tuple[int, int] = (0, 0)) -> dict[str, Any]:
        """The arguments by which a denoiser takes the prompt, for a batch of pictures of `size` (height, width)."""
        conditions: dict[str, Any] = {"encoder_hidden_states": self.embedding.expand(batch, -1, -1)}
        added: dict[str, Tensor] = {}
        if self.pooled is not None:
            added["text_embeds"] = self.pooled.expand(batch, -1)
        time_ids = (*size, 0, 0, *size) if self.config.time_ids is None else self.config.time_ids
        if time_ids:
            row = torch.tensor([time_ids], device=self.embedding.device, dtype=self.embedding.dtype)
            added["time_ids"] = row.expand(batch, -1)
        return conditions | ({"added_cond_kwargs": added} if added else {})
