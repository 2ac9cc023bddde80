"""SAM's mask decoder, and SAM-TS's branch beside it that draws the mask at the image's full resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .image_encoder import MLP, ChannelNorm

HEADS = 8


class Attention(nn.Module):
    """Attention with separate projections, narrowed inside by `narrow`."""

    def __init__(self, width: int, *, narrow: int = 1) -> None:
        super().__init__()
        inside = width // narrow
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inside) for _ in range(3))
        self.out_proj = nn.Linear(inside, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = (
            rearrange(project(t), "b l (n d) -> b n l d", n=HEADS)
            for project, t in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(rearrange(F.scaled_dot_product_attention(*heads), "b n l d -> b l (n d)"))


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, an MLP, image to tokens."""

    def __init__(self, width: int, *, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = Attention(width, narrow=2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, hidden, F.relu)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, narrow=2)

    def forward(self, tokens: Tensor, picture: Tensor, names: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """names: the tokens as they came in, places: the image's positional code; both are added to queries and keys."""
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            q = tokens + names
            tokens = self.norm1(tokens + self.self_attn(q, q, tokens))
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + names, picture + places, picture))
        tokens = self.norm3(tokens + self.mlp(tokens))
        picture = self.norm4(picture + self.cross_attn_image_to_token(picture + places, tokens + names, tokens))
        return tokens, picture


class TwoWayTransformer(nn.Module):
    def __init__(self, width: int, *, depth: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, hidden=hidden, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(width, narrow=2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, picture: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, C), (B, hw, C), (1, hw, C) -> tokens and image of the same shapes."""
        names = tokens
        for layer in self.layers:
            tokens, picture = layer(tokens, picture, names, places)
        attended = self.final_attn_token_to_image(tokens + names, picture + places, picture)
        return self.norm_final_attn(tokens + attended), picture


class Head(nn.Module):
    """Three linear layers with ReLU between."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class MaskDecoder(nn.Module):
    """Embedding (B, C, h, w) and prompts (B, n, C) -> logits at 4h x 4w and 16h x 16w, and the IoU it expects of each."""

    def __init__(self, channels: int, *, hidden: int = 2048, depth: int = 2, masks: int = 4) -> None:
        super().__init__()
        quarter, eighth, sixteenth = channels // 4, channels // 8, channels // 16
        self.masks = masks
        self.transformer = TwoWayTransformer(channels, depth=depth, hidden=hidden)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(masks, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, quarter, 2, 2),
            ChannelNorm(quarter),
            nn.GELU(),
            nn.ConvTranspose2d(quarter, eighth, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Head(channels, eighth) for _ in range(masks))
        self.iou_prediction_head = Head(channels, masks)
        layers: list[nn.Module] = []
        for wide in (eighth, sixteenth):
            layers += [nn.ConvTranspose2d(wide, sixteenth, 2, 2), ChannelNorm(sixteenth), nn.GELU()]
        for _ in range(3):
            layers += [nn.Conv2d(sixteenth, sixteenth, 3, padding=1), ChannelNorm(sixteenth), nn.GELU()]
        self.output_upscaling_hr = nn.Sequential(*layers, nn.Conv2d(sixteenth, sixteenth, 3, padding=1), nn.GELU())
        self.output_hypernetworks_mlps_hr = Head(channels, sixteenth)
        self.iou_prediction_head_hr = Head(channels, 1)

    def forward(self, embedding: Tensor, places: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height = embedding.shape[2]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(len(prompts), -1, -1), prompts], 1)
        flat, code = (rearrange(t, "b c h w -> b (h w) c") for t in (embedding, places))
        tokens, flat = self.transformer(tokens, flat, code)
        iou, mask = tokens[:, 0], tokens[:, 1]  # of the four masks, SAM's single answer is the first
        coarse = self.output_upscaling(rearrange(flat, "b (h w) c -> b c h w", h=height))
        fine = self.output_upscaling_hr(coarse)
        low = torch.einsum("bc,bchw->bhw", self.output_hypernetworks_mlps[0](mask), coarse)
        high = torch.einsum("bc,bchw->bhw", self.output_hypernetworks_mlps_hr(mask), fine)
        return low[:, None], high[:, None], self.iou_prediction_head(iou)[:, :1], self.iou_prediction_head_hr(iou)
