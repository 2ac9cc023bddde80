"""CogView4's transformer, called as a U-Net is, so that nothing else needs to know which of the two denoises."""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_cogview4 import CogView4Transformer2DModel
from torch import Tensor


class Transformer(CogView4Transformer2DModel):
    """diffusers' own module; only the way of calling it differs. It has the same tensors under the same names."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: float,
        *,
        encoder_hidden_states: Tensor,
        added_cond_kwargs: dict[str, Tensor],
        return_dict: bool = True,
    ):
        """sample (B, c, h, w), prompt (B, tokens, width), time_ids (B, 6) -> the velocity, of the sample's shape."""
        original, crop, target = added_cond_kwargs["time_ids"].split(2, dim=1)
        return super().forward(
            sample,
            encoder_hidden_states,
            torch.full((len(sample),), timestep, device=sample.device),  # pyright: ignore[reportArgumentType]
            original_size=original,
            target_size=target,
            crop_coords=crop,
            return_dict=return_dict,
        )
