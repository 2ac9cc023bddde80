"""Prompts of the mask decoder: SAM's positional encoding, and prompts predicted from the image."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from .image_encoder import ChannelNorm


class PositionalCode(nn.Module):
    """Random Fourier features of a place; their matrix is part of a checkpoint."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, channels // 2))

    def forward(self, side: int) -> Tensor:
        """(1, channels, side, side)"""
        matrix = self.positional_encoding_gaussian_matrix
        middle = ((torch.arange(side, device=matrix.device) + 0.5) / side * 2 - 1).to(matrix.dtype)
        y, x = torch.meshgrid(middle, middle, indexing="ij")
        phase = 2 * math.pi * torch.stack([x, y], -1) @ matrix
        return torch.cat([phase.sin(), phase.cos()], -1).movedim(-1, 0)[None]


class PromptEncoder(nn.Module):
    """SAM's, whole, as checkpoints hold it. SAM-TS takes only its positional code: there are no clicks and no masks."""

    def __init__(self, channels: int, *, mask_channels: int = 16) -> None:
        super().__init__()
        quarter = mask_channels // 4
        self.pe_layer = PositionalCode(channels)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, quarter, 2, 2),
            ChannelNorm(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, mask_channels, 2, 2),
            ChannelNorm(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, channels, 1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)

    def places(self, side: int) -> Tensor:
        """Encode the positions of a side x side grid -> (1, channels, side, side)."""
        return self.pe_layer(side)


class PromptBlock(nn.Module):
    """The prompts look at one another, then at the image."""

    def __init__(self, channels: int, *, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn = nn.MultiheadAttention(channels, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, prompts: Tensor, picture: Tensor) -> Tensor:  # (B, n, C), (B, places, C)
        prompts = self.norm1(prompts + self.dropout(self.self_attn(prompts, prompts, prompts)[0]))
        prompts = prompts + self.dropout(self.cross_attn(prompts, picture, picture)[0])
        return prompts + self.dropout(self.ffn(self.norm2(prompts)))


class ModalAligner(nn.Module):
    """Self-prompting: maps of where text may be, each turned into one prompt by the mean of the image under it."""

    def __init__(self, channels: int, *, prompts: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, prompts, 3, padding=1, bias=False)]
        for _ in range(3):
            layers += [nn.GELU(), nn.Conv2d(prompts, prompts, 3, padding=1, bias=False)]
        self.conv = nn.Sequential(*layers)
        self.transformer_layers = nn.ModuleList([PromptBlock(channels)])

    def forward(self, embedding: Tensor) -> Tensor:  # (B, C, h, w) -> (B, prompts, C)
        maps = rearrange(self.conv(embedding).sigmoid(), "b n h w -> b n (h w)")
        picture = rearrange(embedding, "b c h w -> b (h w) c")
        prompts = maps @ picture / picture.shape[1]
        for block in self.transformer_layers:
            prompts = block(prompts, picture)
        return prompts
