"""The interaction blocks of the authors' two releases, which are not the one that the paper draws.

Both run the same weights over either stream, and both weigh the channels by their mean. `RELEASED` says what the
authors call each layer; a `{side}` in it is l and r, two names for the one tensor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of (B, C, h, w), at every place by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x.movedim(1, -1), weight.shape, weight, bias, eps=1e-6).movedim(-1, 1)


class ChannelAttention(nn.Module):
    """Every channel times what a 1x1 convolution makes of the channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3), keepdim=True))


def make_residual_scale(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, channels, 1, 1))


class KolorsBlock(nn.Module):
    """Two gates without a sigmoid. The image's stream goes through untouched: its residuals are multiplied by 0."""

    RELEASED = {  # noqa: RUF012
        "first": "block1.0.seq_{side}",
        "attend.conv": "block1.2.seq_{side}.0.ca.1",
        "merge": "block1.3.seq_{side}.0",
        "second": "block2.0.seq_{side}",
        "close": "block2.2.seq_{side}.0",
    }

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.first = nn.Sequential(
            ChannelNorm(channels), nn.Conv2d(channels, wide, 1), nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        )
        self.attend = ChannelAttention(channels)
        self.merge = nn.Conv2d(channels, channels, 1)
        self.second = nn.Sequential(ChannelNorm(channels), nn.Conv2d(channels, wide, 1))
        self.close = nn.Conv2d(channels, channels, 1)
        self.a_l, self.a_r, self.b_l, self.b_r = (
            make_residual_scale(channels) for _ in range(4)
        )  # a_l, b_l: never used

    def forward(self, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """z, a (B, C, h, w) -> the same shapes."""
        a = a + self.a_r * self.merge(self.attend(apply_gate(self.first, a, z)))
        a = a + self.b_r * self.close(apply_gate(self.second, a, z))
        return z, a


def apply_gate(layers: nn.Module, own: Tensor, other: Tensor) -> Tensor:
    """Multiply the first half of the layers' output on one stream by the second half of that on the other."""
    forward, gate = layers(own).chunk(2, dim=1)[0], layers(other).chunk(2, dim=1)[1]
    return forward * gate


class CogView4Block(nn.Module):
    """The paper's block with one residual block, the channels weighed, and both branches sharing their weights."""

    RELEASED = {  # noqa: RUF012
        "block": "block1.0.seq_{side}.0",
        "split": "block1.0.seq_{side}.1",
        "attend.conv": "block1.2.seq_{side}.0.ca.1",
        "norm": "block1.3.seq_{side}.0",
        "merge": "block1.5.seq_{side}.0",
    }

    def __init__(self, channels: int) -> None:
        super().__init__()
        from diffusers.models.resnet import ResnetBlock2D

        self.block = ResnetBlock2D(
            in_channels=channels, out_channels=channels, temb_channels=None, groups=GROUPS, eps=1e-6  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        self.split = nn.Conv2d(channels, 2 * channels, 1)
        self.attend = ChannelAttention(channels)
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.merge = nn.Conv2d(channels, channels, 1)
        self.a_l, self.a_r = make_residual_scale(channels), make_residual_scale(channels)

    def forward(self, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """z, a (B, C, h, w) -> the same shapes."""
        image, gate_for_text = self.split_halves(z)
        text, gate_for_image = self.split_halves(a)
        return z + self.a_l * self.residual(image, gate_for_image), a + self.a_r * self.residual(text, gate_for_text)

    def split_halves(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        forward, gate = self.split(self.block(hidden, None)).chunk(2, dim=1)
        return forward, gate.sigmoid()

    def residual(self, forward: Tensor, gate: Tensor) -> Tensor:
        return self.merge(F.silu(self.norm(self.attend(forward * gate))))


BLOCKS = {"kolors-release": KolorsBlock, "cogview4-release": CogView4Block}
