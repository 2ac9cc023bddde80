"""The image decoder's last level as a plain convolution trunk at LR resolution, tied to the text stream by light CDIBs.

It takes the place of the VAE decoder's last up block where `DecoderConfig.trunk` is given (the compact-trunk preset):
no norm and no attention, so that nearly all of its time is 3x3 convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TrunkConfig

LOG_VARIANCE = (-12.0, 0.0)  # limits of the predicted log variance; pixels are in [0, 1]


class Block(nn.Module):
    """Residual block: 3x3 convolution, ReLU, 3x3 convolution that starts at zero. (B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        zero_layer(self.second)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.second(F.relu(self.first(hidden)))


class LightBranch(nn.Module):
    """One side of a light CDIB: a depthwise 3x3 and a 1x1 convolution whose halves go forward and across."""

    def __init__(self, *, channels: int, other: int) -> None:
        super().__init__()
        self.near = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.split = nn.Conv2d(channels, channels + other, 1)
        self.merge = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.zeros(1, channels, 1, 1))  # the residual starts at zero
        self.widths = (channels, other)

    def split_halves(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Split (B, C, h, w) into what stays in this branch (B, C, h, w) and the gate for the other one (B, C', h, w)."""
        forward, gate = self.split(self.near(hidden)).split(self.widths, dim=1)
        return forward, gate.sigmoid()

    def residual(self, forward: Tensor, gate: Tensor) -> Tensor:
        return self.scale.to(forward) * self.merge(F.silu(forward * gate))


class Interaction(nn.Module):
    """Cross-decoder interaction of Eq. 6: a GLU whose gates come from the other stream.

    image, text: branches with `halves` and `residual`; each sends the other a gate of the other's width.
    """

    def __init__(self, image: nn.Module, text: nn.Module) -> None:
        super().__init__()
        self.image: Any = image
        self.text: Any = text

    def forward(self, z: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, Ci, h, w), a (B, Ct, h, w) -> the same shapes."""
        image, gate_for_text = self.image.split_halves(z)
        text, gate_for_image = self.text.split_halves(a)
        a = a + self.text.residual(text, gate_for_text)
        del text, gate_for_text  # at Kolors' last level every map is 300 MB
        return z + self.image.residual(image, gate_for_image), a


class LightCDIB(Interaction):
    """The interaction block without norms and residual blocks.

    The trunk and the text stream have blocks of their own between two of these.
    """

    def __init__(self, *, image_channels: int, text_channels: int) -> None:
        super().__init__(
            LightBranch(channels=image_channels, other=text_channels),
            LightBranch(channels=text_channels, other=image_channels),
        )


class Section(nn.Module):
    """A light CDIB, then some of the trunk's blocks and one block of the text stream."""

    def __init__(self, *, image_channels: int, text_channels: int | None, blocks: int) -> None:
        super().__init__()
        self.interaction: LightCDIB | None = None
        self.text: Block | None = None
        if text_channels is not None:
            self.interaction = LightCDIB(image_channels=image_channels, text_channels=text_channels)
            self.text = Block(text_channels)
        self.blocks = nn.Sequential(*(Block(image_channels) for _ in range(blocks)))

    def forward(self, z: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.interaction is not None and self.text is not None and a is not None:
            z, a = self.interaction(z, a)
            a = self.text(a)
        return self.blocks(z), a


class CertaintyHead(nn.Module):
    """Predict the log variance of each pixel's error from the trunk's features, without a gradient to them.

    It sees each position's features divided by their root mean square, and the logarithm of that: their size spans two
    orders of magnitude and moves while the trunk learns, which made predictions on the bare features overshoot.
    """

    def __init__(self, *, channels: int, patch: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels + 1, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, patch**2, 3, padding=1)
        zero_layer(self.last, bias=-5.0)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, patch^2, h, w), within LOG_VARIANCE."""
        hidden = hidden.detach()
        size = hidden.float().square().mean(1, keepdim=True).add(1e-6).sqrt()
        hidden = torch.cat([hidden / size.to(hidden), size.log().to(hidden)], 1)
        return self.last(F.relu(self.first(hidden))).clamp(*LOG_VARIANCE)


class Trunk(nn.Module):
    """From the upscaled input and the decoders' streams at LR resolution to the image and its certainty.

    latent_channels: of the image stream that enters; text_channels: of the text stream, None without joint decoders;
    patch: HR pixels to one of the trunk's, along a side.
    """

    def __init__(
        self, config: TrunkConfig, *, latent_channels: int, text_channels: int | None, colors: int, patch: int
    ) -> None:
        super().__init__()
        width = config.channels
        self.from_picture = nn.Conv2d(colors, width, 3, padding=1)
        self.from_latent = nn.Conv2d(latent_channels, width, 1)
        self.guide: nn.Conv2d | None = None
        if config.guide and text_channels is not None:
            self.guide = nn.Conv2d(patch**2 + 1, text_channels, 3, padding=1)
        share, rest = divmod(config.blocks, config.sections)
        self.sections = nn.ModuleList(
            Section(image_channels=width, text_channels=text_channels, blocks=share + (i < rest))
            for i in range(config.sections)
        )
        self.out = nn.Conv2d(width, colors, 3, padding=1)
        zero_layer(self.out)  # training starts from the upscaled input itself
        self.certainty = CertaintyHead(channels=width, patch=patch) if config.certainty else None

    def forward(
        self, picture: Tensor, z: Tensor, a: Tensor | None, guide: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """image (B, colors, h, w): the upscaled input in patches, in [-1, 1]; z (B, latent_channels, h, w); a (B, text
        channels, h, w); guide (B, patch^2, h, w): a text mask in patches, all zero for an image without one.

        Returns the residual image in patches (B, colors, h, w), the text stream, and the log variance of its error in
        patches (B, patch^2, h, w), whose gradient does not reach the trunk.
        """
        z = self.from_picture(picture) + self.from_latent(z)
        if guide is not None and a is not None and self.guide is not None:
            given = guide.amax((1, 2, 3), keepdim=True).gt(0).to(guide)
            a = a + given * self.guide(torch.cat([guide, given.expand_as(guide[:, :1])], 1))
        for section in self.sections:
            z, a = section(z, a)
        log_variance = None if self.certainty is None else self.certainty(z)
        return self.out(z), a, log_variance


def zero_layer(layer: nn.Conv2d, *, bias: float = 0.0) -> None:
    """Set a layer's weights to zero and its bias to a constant."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
