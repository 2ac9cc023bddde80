"""The text segmentation decoder, the cross-decoder interaction block, and the encoder skips (Sec. 3.3, Fig. 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..config import DecoderConfig
from ..errors import ConfigError
from .release_blocks import BLOCKS
from .trunk import Interaction, Trunk

if TYPE_CHECKING:  # diffusers takes seconds to import: it is imported where a network is built
    from diffusers.models.resnet import ResnetBlock2D


def res_block(channels: int, groups: int) -> ResnetBlock2D:
    from diffusers.models.resnet import ResnetBlock2D

    return ResnetBlock2D(in_channels=channels, out_channels=channels, temb_channels=None, groups=groups, eps=1e-6)  # pyright: ignore[reportArgumentType]


class Branch(nn.Module):
    """One side of a CDIB: two ResBlocks and a 1x1 convolution whose halves go forward and across."""

    def __init__(self, *, channels: int, other: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([res_block(channels, groups), res_block(channels, groups)])
        self.split = nn.Conv2d(channels, channels + other, 1)
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.merge = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.zeros(1, channels, 1, 1))  # the residual starts at zero
        self.widths = (channels, other)

    def split_halves(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Split (B, C, h, w) into what stays in this branch (B, C, h, w) and the gate for the other one (B, C', h, w)."""
        for block in self.blocks:
            hidden = block(hidden, None)
        forward, gate = self.split(hidden).split(self.widths, dim=1)
        return forward.clone(), gate.sigmoid()  # apart, so that the map they were cut from is let go

    def residual(self, forward: Tensor, gate: Tensor) -> Tensor:
        return self.scale.to(forward) * self.merge(nn.functional.silu(self.norm(forward * gate)))


class CDIB(Interaction):
    """Cross-decoder interaction block as Fig. 2 draws it. The two streams may differ in width."""

    def __init__(self, *, image_channels: int, text_channels: int, groups: int) -> None:
        super().__init__(
            Branch(channels=image_channels, other=text_channels, groups=groups),
            Branch(channels=text_channels, other=image_channels, groups=groups),
        )


class TextDecoder(nn.Module):
    """D^s of Eq. 5: symmetric to the VAE's decoder, from a_tex to the logits of the text mask."""

    def __init__(self, config: DecoderConfig, *, patch: int) -> None:
        from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UpDecoderBlock2D

        super().__init__()
        widths, groups = config.text_channels, config.norm_groups
        self.mid_block = None
        if config.text_mid_block:
            self.mid_block = UNetMidBlock2D(
                in_channels=widths[0], temb_channels=None, resnet_groups=groups, resnet_eps=1e-6,  # pyright: ignore[reportArgumentType]
                attention_head_dim=widths[0], add_attention=False,
            )  # fmt: skip
        last = len(widths) - 2
        self.up_blocks = nn.ModuleList(
            UpDecoderBlock2D(
                in_channels=widths[i], out_channels=widths[i + 1], num_layers=config.text_layers,
                resnet_groups=groups, add_upsample=i < last or config.trunk is not None,
            )
            for i in range(last + 1)
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.GroupNorm(groups, widths[-1], eps=1e-6), nn.SiLU(), nn.Conv2d(widths[-1], patch**2, 3, padding=1)
        )


def build_interaction(config: DecoderConfig, image: int, text: int) -> nn.Module:
    """Build the block that ties an image stream and a text stream of these widths. Raises ConfigError."""
    if config.block == "paper":
        return CDIB(image_channels=image, text_channels=text, groups=config.norm_groups)
    if image != text:
        raise ConfigError(f"A {config.block} block has one width, the streams have {image} and {text} channels.")
    return BLOCKS[config.block](image)


class JointParts(nn.Module):
    """All that is added to the VAE's decoder: the text decoder, a CDIB before each up block, the skip convolutions."""

    def __init__(self, config: DecoderConfig, *, vae_channels: list[int], patch: int) -> None:
        super().__init__()
        reverse = vae_channels[::-1]
        image_widths = [reverse[0], *reverse[:-1]]  # what enters the VAE decoder's up blocks
        skip_widths = [vae_channels[max(level - 1, 0)] for level in range(len(reverse))][::-1]
        if config.trunk is not None:  # it takes the last level
            image_widths, skip_widths = image_widths[:-1], skip_widths[:-1]
        self.from_image = config.source == "image"
        if config.joint and self.from_image and config.text_channels[0] != image_widths[0]:
            raise ConfigError(
                f"The text decoder starts at {config.text_channels[0]} channels, the image stream that it is to start "
                f"from has {image_widths[0]}."
            )
        self.text: TextDecoder | None = None
        self.interactions: nn.ModuleList | None = None
        if config.joint:
            self.text = TextDecoder(config, patch=patch)
            self.interactions = nn.ModuleList(
                build_interaction(config, image, text)
                for image, text in zip(image_widths, config.text_channels[:-1], strict=True)
            )
        self.skips: nn.ModuleList | None = None
        if config.skips:
            self.skips = nn.ModuleList(
                nn.Conv2d(skip, image, 1, bias=False)
                for skip, image in zip(skip_widths[1:], image_widths[1:], strict=True)
            )
            if config.zero_skips:
                for skip in self.skips:
                    nn.init.zeros_(skip.weight)  # pyright: ignore[reportArgumentType]
        self.trunk: Trunk | None = None
        if config.trunk is not None:
            self.trunk = Trunk(
                config.trunk,
                latent_channels=reverse[-2],
                text_channels=config.text_channels[-1] if config.joint else None,
                colors=3 * patch**2,
                patch=patch,
            )
        self.unused_skip: nn.Conv2d | None = None
        if config.unused_skip:
            self.unused_skip = nn.Conv2d(skip_widths[0], image_widths[0], 1, bias=False)
