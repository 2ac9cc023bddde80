"""SAM's image encoder with SAM-TS's adapters: a plain ViT, windowed but for a few global blocks.

Names are those of the published checkpoints, hence `Space_Adapter` and `MLP_Adapter`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, 1e-6).movedim(-1, 1)


class Adapter(nn.Module):
    """A bottleneck of a quarter of the width; the identity where its skip is on and fc2 is zero."""

    def __init__(self, width: int, *, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.D_fc1 = nn.Linear(width, width // 4)
        self.D_fc2 = nn.Linear(width // 4, width)

    def forward(self, x: Tensor) -> Tensor:
        change = self.D_fc2(F.gelu(self.D_fc1(x)))
        return x + change if self.skip else change


class Attention(nn.Module):
    """Self-attention over a square of places with decomposed relative positions.

    The score of a query at (y, x) for a key at (y', x') is q.k / sqrt(d) + q.h[y - y'] + q.w[x - x']. The two last terms
    are a dot product too: of q's products with all rows and columns, and the key's row and column as one-hot vectors.
    So they ride along as further channels, and no (places x places) table is ever made.
    """

    def __init__(self, width: int, *, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:  # (B, S, S, C)
        q, k, v = rearrange(self.qkv(x), "b y x (three n d) -> three b n y x d", three=3, n=self.heads)
        place = torch.arange(self.side, device=x.device)
        offset = place[:, None] - place + self.side - 1  # (S, S): of query and key
        rows = torch.einsum("bnyxd,ykd->bnyxk", q, self.rel_pos_h[offset])
        columns = torch.einsum("bnyxd,xkd->bnyxk", q, self.rel_pos_w[offset])
        eye = torch.eye(self.side, device=x.device, dtype=k.dtype)
        where = torch.cat([eye[:, None].expand(-1, self.side, -1), eye[None].expand(self.side, -1, -1)], -1)
        q = torch.cat([q * q.shape[-1] ** -0.5, rows, columns], -1)
        k = torch.cat([k, where.expand(*k.shape[:2], -1, -1, -1)], -1)
        q, k, v = (rearrange(t, "b n y x d -> b n (y x) d") for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.proj(rearrange(mixed, "b n (y x) d -> b y x (n d)", y=self.side))


class MLP(nn.Module):
    def __init__(self, width: int, hidden: int, activation: Callable[[Tensor], Tensor] = F.gelu) -> None:
        super().__init__()
        self.lin1, self.lin2, self.activation = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.activation(self.lin1(x)))


class Block(nn.Module):
    """window: the side of the windows attended in; None: the whole grid of `side` places."""

    def __init__(self, width: int, *, heads: int, side: int, window: int | None) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads=heads, side=window or side)
        self.Space_Adapter = Adapter(width, skip=True)
        self.MLP_Adapter = Adapter(width, skip=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:  # (B, H, W, C)
        x = x + self.Space_Adapter(self._attend(self.norm1(x)))
        y = self.norm2(x)
        return x + self.mlp(y) + 0.5 * self.MLP_Adapter(y)

    def _attend(self, x: Tensor) -> Tensor:
        if self.window is None:
            return self.attn(x)
        height, width, s = x.shape[1], x.shape[2], self.window
        x = F.pad(x, (0, 0, 0, -width % s, 0, -height % s))
        rows = x.shape[1] // s
        x = rearrange(x, "b (i y) (j x) c -> (b i j) y x c", y=s, x=s)
        x = rearrange(self.attn(x), "(b i j) y x c -> b (i y) (j x) c", i=rows, j=-(-width // s))
        return x[:, :height, :width]


class ImageEncoder(nn.Module):
    """(B, 3, S, S), normalised -> (B, channels, S / patch, S / patch). Recomputes its blocks in training: memory."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        global_blocks: tuple[int, ...],
        image: int,
        patch: int,
        window: int,
        channels: int,
    ) -> None:
        super().__init__()
        side = image // patch
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, width))
        self.blocks = nn.ModuleList(
            Block(width, heads=heads, side=side, window=None if i in global_blocks else window) for i in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False),
            ChannelNorm(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed.proj(image).movedim(1, -1) + self.pos_embed  # pyright: ignore[reportCallIssue]
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.training and torch.is_grad_enabled() else block(x)
        return self.neck(x.movedim(-1, 1))
