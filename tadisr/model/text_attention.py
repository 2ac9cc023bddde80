"""Text-aware cross-attention (Sec. 3.2): what every cross-attention layer answers to the word "text".

The layers keep PyTorch's fused attention. Beside it, only the word's own map is made, never all 256:
the score is one dot product a query, the probability a second fused call whose value is the word's indicator.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import TextAttentionConfig
from ..errors import ConfigError

if TYPE_CHECKING:  # diffusers takes seconds to import: it is imported where a network is built
    from diffusers.models.attention_processor import Attention


def attention_score(query: Tensor, key: Tensor, positions: Tensor, scale: float) -> Tensor:
    """Compute Eq. 3: q.k / sqrt(d) of the target tokens, the mean over them.

    query (B, heads, N, d), key (B, heads, tokens, d), positions (P,) -> (B, heads, N).
    """
    word = key[:, :, positions].mean(2)  # (B, heads, d)
    return torch.einsum("bhnd,bhd->bhn", query, word) * scale


def attention_probability(query: Tensor, key: Tensor, positions: Tensor, scale: float) -> Tensor:
    """Compute the softmax weight of the target tokens, the mean over them, as DAAM records it. Shapes as in `score`.

    softmax(q k^T) v with v the word's indicator is that weight itself, so the fused kernel gives it.
    """
    indicator = torch.zeros_like(key)  # (B, heads, tokens, d); as wide as the keys, so that every kernel takes it
    indicator[:, :, positions] = 1 / len(positions)
    return F.scaled_dot_product_attention(query, key, indicator, scale=scale)[..., 0]


BLOCKS = ("down", "mid", "up")  # of the U-Net, as it runs
RESPONSES = {"score": attention_score, "probability": attention_probability}


def level_size(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a layer that has `tokens` queries, in a U-Net whose input is `size` and halves rounding up."""
    height, width = size
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != tokens:
        raise ConfigError(f"A layer has {tokens} queries, which no level of a {size[0]}x{size[1]} latent has.")
    return height, width


def text_layers(denoiser: nn.Module) -> list[tuple[str, Attention]]:
    """List the layers in which the image attends to the prompt, by name, in execution order.

    In a U-Net those are its cross-attention; in a transformer of joint attention, all.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    layers = [(name, layer) for name, layer in denoiser.named_modules() if isinstance(layer, Attention)]
    if not isinstance(denoiser, UNet2DConditionModel):
        return layers
    layers = [(name, layer) for name, layer in layers if layer.is_cross_attention]
    return sorted(layers, key=lambda pair: BLOCKS.index(pair[0].split("_")[0]))  # stable within a block


@dataclass
class Recording:
    """Recording state: target token positions, latent size, one (B, heads, h, w) map per layer in execution order."""

    positions: Tensor
    size: tuple[int, int]
    maps: list[Tensor] = field(default_factory=list)


class Recorder:
    """Records the layers' responses while the block of `record_responses` runs; otherwise attention is unchanged.

    Several may share one denoiser, as models of several adapters do: each is attached to its layers only while it records.
    """

    def __init__(self, denoiser: nn.Module, config: TextAttentionConfig) -> None:
        self.config = config
        self.recording: Recording | None = None
        self.channels = 0
        self.layers: list[str] = []  # that are recorded, in execution order
        self.processors: list[CrossProcessor | JointProcessor] = []  # of those layers
        for name, layer in text_layers(denoiser):
            if not isinstance(layer.processor, (CrossProcessor, JointProcessor)):
                layer.set_processor(CrossProcessor() if layer.is_cross_attention else JointProcessor())  # pyright: ignore[reportArgumentType]
            if config.enabled and (config.mid_block or not name.startswith("mid_block")):
                self.channels += len(self.chosen_heads(layer.heads))
                self.layers.append(name)
                self.processors.append(layer.processor)  # pyright: ignore[reportArgumentType]

    def chosen_heads(self, heads: int) -> range:
        return range(heads // 2, heads) if self.config.heads == "second_half" else range(heads)

    @contextmanager
    def record_responses(self, positions: Tensor, size: tuple[int, int]) -> Iterator[list[Tensor]]:
        """Record while the denoiser runs once on a latent of `size`; yields the list that is filled, in execution order."""
        self.recording = Recording(positions, size)
        for processor in self.processors:
            processor.recorder = self
        try:
            yield self.recording.maps
        finally:
            self.recording = None
            for processor in self.processors:
                processor.recorder = None

    def record_layer(self, query: Tensor, key: Tensor, scale: float) -> None:
        """Record the response of the image's queries to keys that begin with the prompt's."""
        if self.recording is None:
            return
        heads = self.chosen_heads(query.shape[1])
        query, key = query[:, heads.start : heads.stop], key[:, heads.start : heads.stop]
        response = RESPONSES[self.config.response](query, key, self.recording.positions, scale)
        height, width = level_size(query.shape[2], self.recording.size)
        self.recording.maps.append(rearrange(response, "b m (h w) -> b m h w", h=height, w=width))


class CrossProcessor:
    """A U-Net's cross-attention (Eq. 2), whose queries and keys the recorder reads."""

    recorder: Recorder | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,  # (B, N, C)
        encoder_hidden_states: Tensor | None = None,  # (B, tokens, cross)
        attention_mask: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)  # pyright: ignore[reportOptionalCall]
        query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=attn.heads) for x in (query, key, value))
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, key.shape[2], len(query))
            attention_mask = rearrange(attention_mask, "(b h) q k -> b h q k", h=attn.heads)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        if self.recorder is not None:
            self.recorder.record_layer(query, key, query.shape[-1] ** -0.5)
        out = attn.to_out[0](rearrange(out, "b h n d -> b n (h d)"))  # pyright: ignore[reportOptionalSubscript]
        return attn.to_out[1](out)  # pyright: ignore[reportOptionalSubscript]


class JointProcessor:
    """CogView4's attention over the prompt's tokens and the image's together, of which the recorder reads the image's.

    What the image's tokens ask of the prompt's is the cross-attention within it, so Eq. 3 holds as it stands.
    """

    recorder: Recorder | None = None

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,  # (B, N, C) of the image
        encoder_hidden_states: Tensor,  # (B, tokens, C) of the prompt
        image_rotary_emb: tuple[Tensor, Tensor],
        **_: object,
    ) -> tuple[Tensor, Tensor]:
        tokens, both = encoder_hidden_states.shape[1], torch.cat([encoder_hidden_states, hidden_states], 1)
        query, key, value = attn.to_q(both), attn.to_k(both), attn.to_v(both)  # pyright: ignore[reportOptionalCall]
        query, key, value = (rearrange(x, "b n (h d) -> b h n d", h=attn.heads) for x in (query, key, value))
        query = self.place(attn.norm_q(query), tokens, image_rotary_emb).to(value.dtype)  # pyright: ignore[reportOptionalCall]
        key = self.place(attn.norm_k(key), tokens, image_rotary_emb).to(value.dtype)  # pyright: ignore[reportOptionalCall]
        out = F.scaled_dot_product_attention(query, key, value)
        if self.recorder is not None:
            self.recorder.record_layer(query[:, :, tokens:], key, query.shape[-1] ** -0.5)
        out = attn.to_out[0](rearrange(out, "b h n d -> b n (h d)"))  # pyright: ignore[reportOptionalSubscript]
        return out[:, tokens:], out[:, :tokens]

    @staticmethod
    def place(x: Tensor, tokens: int, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Apply rotary embeddings to the image's tokens; the prompt's, in front, have none."""
        from diffusers.models.embeddings import apply_rotary_emb

        turned = apply_rotary_emb(x[:, :, tokens:], rotary, use_real_unbind_dim=-2)  # pyright: ignore[reportArgumentType]
        return torch.cat([x[:, :, :tokens], turned], 2)  # pyright: ignore[reportArgumentType]


class TextProjection(nn.Module):
    """W_a of Eq. 4: joins the responses of all layers at latent size and projects them for the text decoder.

    A 1x1 convolution and a bilinear resize commute, so each level is projected at its own size and then brought to the
    latent's: the joined stack of all maps at latent size, 1300 channels for Kolors, is never made. Clamped maps do not
    commute: they are resized first, layer by layer.
    """

    def __init__(self, *, channels: int, width: int, resize: str = "bilinear") -> None:
        super().__init__()
        self.resize = resize
        self.weight = nn.Parameter(torch.empty(width, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(width))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, responses: list[Tensor], size: tuple[int, int]) -> Tensor:
        """responses M x (B, heads, h, w), in running order -> a_tex (B, width, *size)."""
        weights = self.weight.to(responses[0]).split([maps.shape[1] for maps in responses], dim=1)
        a_tex = self.bias.to(responses[0])[:, None, None]
        if self.resize == "clamped_bicubic":
            for maps, weight in zip(responses, weights, strict=True):
                resized = F.interpolate(maps, size=size, mode="bicubic", align_corners=False)
                a_tex = a_tex + F.conv2d(resized.clamp_min(0), weight)
            return a_tex
        levels: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for maps, weight in zip(responses, weights, strict=True):
            levels.setdefault((maps.shape[2], maps.shape[3]), []).append((maps, weight))
        for level, parts in levels.items():
            stack = torch.cat([maps for maps, _ in parts], 1)
            projected = F.conv2d(stack, torch.cat([weight for _, weight in parts], 1))
            if level != size:
                projected = F.interpolate(projected, size=size, mode="bilinear", align_corners=False)
            a_tex = a_tex + projected
        return a_tex
