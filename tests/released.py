"""The authors' two pickles rebuilt: their module tree and names, random numbers, and the plain forward of their decoder.

Written from the published layout alone and sharing nothing with `tadisr.release`, so that one can be held to the other.
"""

from __future__ import annotations

import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, CogView4Transformer2DModel, UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from peft import LoraConfig
from torch import Tensor, nn

from tadisr.config import ModelConfig

UNET_TARGETS = (
    "to_k to_q to_v to_out.0 conv conv1 conv2 conv_shortcut conv_out proj_in proj_out ff.net.2 ff.net.0.proj".split()
)
TRANSFORMER_TARGETS = (
    "attn1.to_q attn1.to_k attn1.to_v attn1.to_out.0 attn2.to_q attn2.to_k attn2.to_v attn2.to_out.0 ff.net.0.proj "
    "ff.net.2 proj_in proj_out".split()
)
SKIPS = ["skip_conv_1", "skip_conv_2", "skip_conv_3", "skip_conv_4"]
VAE_TARGETS = "conv1 conv2 conv_in conv_shortcut conv conv_out".split() + SKIPS + "to_k to_q to_v to_out.0".split()


class Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        unit = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return unit * self.weight[None, :, None, None] + self.bias[None, :, None, None]


class Weigh(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.ca(x)


class Gate(nn.Module):
    def __init__(self, *, sigmoid: bool) -> None:
        super().__init__()
        if sigmoid:
            self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        activation = getattr(self, "sigmoid", nn.Identity())
        (x1, x2), (y1, y2) = x.chunk(2, 1), y.chunk(2, 1)
        return x1 * activation(y2), y1 * activation(x2)


class Both(nn.Module):
    """The same layers under two names, one for each stream."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.seq_l, self.seq_r = nn.Sequential(*layers), nn.Sequential(*layers)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.seq_l(x), self.seq_r(y)


class Chain(nn.Sequential):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore
        for layer in self:
            x, y = layer(x, y)
        return x, y


class Res(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, channels, eps=1e-6), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2, self.dropout = nn.GroupNorm(32, channels, eps=1e-6), nn.Dropout(0)
        self.conv2, self.nonlinearity = nn.Conv2d(channels, channels, 3, padding=1), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(self.nonlinearity(self.norm1(x)))
        return x + self.conv2(self.nonlinearity(self.norm2(hidden)))


class KolorsInteraction(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        depthwise = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.block1 = Chain(
            Both(Norm(c), nn.Conv2d(c, 2 * c, 1), depthwise), Gate(sigmoid=False), Both(Weigh(c)),
            Both(nn.Conv2d(c, c, 1)),
        )  # fmt: skip
        self.a_l, self.a_r = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))
        self.block2 = Chain(Both(Norm(c), nn.Conv2d(c, 2 * c, 1)), Gate(sigmoid=False), Both(nn.Conv2d(c, c, 1)))
        self.b_l, self.b_r = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.block1(left, right)
        left, right = left + x * 0, right + y * self.a_r
        x, y = self.block2(left, right)
        return left + x * 0, right + y * self.b_r


class CogView4Interaction(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.block1 = Chain(
            Both(Res(c), nn.Conv2d(c, 2 * c, 1)), Gate(sigmoid=True), Both(Weigh(c)), Both(nn.GroupNorm(32, c)),
            Both(nn.SiLU()), Both(nn.Conv2d(c, c, 1)),
        )  # fmt: skip
        self.a_l, self.a_r = (nn.Parameter(torch.zeros(1, c, 1, 1)) for _ in range(2))

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.block1(left, right)
        return left + x * self.a_l, right + y * self.a_r


class Decoder(nn.Module):
    """`mi_decoder`, `js_decoder`: widths of the text stream before each up block, and after the last."""

    def __init__(self, interaction: type[nn.Module], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.interaction_blocks = nn.ModuleList(Chain(interaction(c)) for c in widths[:-1])  # pyright: ignore
        self.up_blocks = nn.ModuleList(
            UpDecoderBlock2D(num_layers=2, in_channels=a, out_channels=b, add_upsample=i < len(widths) - 2)
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.out_block = nn.Sequential(
            nn.GroupNorm(32, widths[-1], eps=1e-6), nn.SiLU(), nn.Conv2d(widths[-1], 1, 3, padding=1)
        )


def decode(vae: AutoencoderKL, decoder: Decoder, z: Tensor, skips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The authors' last stage: an unscaled latent, the encoder's features (finest first) -> picture, mask logits.

    Of the mask stream's start the Kolors code says what the file cannot do; here both start as the CogView4 code does.
    """
    half = vae.decoder
    z = half.mid_block(half.conv_in(z if vae.post_quant_conv is None else vae.post_quant_conv(z)))
    a = z
    for i, (image_up, text_up, tie) in enumerate(
        zip(half.up_blocks, decoder.up_blocks, decoder.interaction_blocks, strict=True)
    ):
        if i > 0:
            z = z + getattr(half, SKIPS[i])(skips[::-1][i])
        z, a = tie(z, a)
        z, a = image_up(z), text_up(a)
    return half.conv_out(half.conv_act(half.conv_norm_out(z))), decoder.out_block(a)


def with_skips(vae: AutoencoderKL) -> AutoencoderKL:
    down = list(vae.config["block_out_channels"])
    shapes = [(down[2], down[3]), (down[1], down[3]), (down[0], down[2]), (down[0], down[1])]
    for name, (a, b) in zip(SKIPS, shapes, strict=True):
        setattr(vae.decoder, name, nn.Conv2d(a, b, 1, bias=False))
    return vae


def pieces(config: ModelConfig, base: Path | None = None) -> tuple[Any, Any, Decoder]:
    """The base with peft's layers on it as the authors put them, and their decoder; of random numbers without a base."""
    kolors = bool(config.unet)
    kind, arguments, folder = (
        (UNet2DConditionModel, config.unet, "unet")
        if kolors
        else (CogView4Transformer2DModel, config.transformer, "transformer")
    )
    if base is None:
        denoiser, vae = kind.from_config(arguments), AutoencoderKL.from_config(config.vae)
    else:
        denoiser = kind.from_pretrained(base / folder, variant="fp16")
        vae = AutoencoderKL.from_pretrained(base / "vae", variant="fp16")
    targets = UNET_TARGETS if kolors else TRANSFORMER_TARGETS
    denoiser.add_adapter(LoraConfig(r=4, init_lora_weights=False, target_modules=targets))
    with_skips(vae).add_adapter(
        LoraConfig(r=2, init_lora_weights=False, target_modules=VAE_TARGETS), adapter_name="vae_skip"
    )
    decoder = Decoder(KolorsInteraction if kolors else CogView4Interaction, config.decoder.text_channels)
    return denoiser, vae, decoder


def save(path: Path, config: ModelConfig, denoiser: nn.Module, vae: nn.Module, decoder: nn.Module) -> Path:
    """The pickle as the authors' code writes it, on the GPU that it trains on: every tensor says that it was there."""
    kolors = bool(config.unet)
    part, kept = ("unet", ("lora", "conv_in")) if kolors else ("transformer", ("lora",))

    def some(module: nn.Module, words: tuple[str, ...]) -> dict[str, Tensor]:
        return {k: v for k, v in module.state_dict().items() if any(word in k for word in words)}

    state = {
        "mi_decoder" if kolors else "js_decoder": decoder.state_dict(),
        f"{part}_lora_target_modules": UNET_TARGETS if kolors else TRANSFORMER_TARGETS,
        f"rank_{part}": 4,
        f"state_dict_{part}": some(denoiser, kept),
        "state_dict_vae": some(vae, ("lora", "skip")),
    }
    tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda _: "".join(("cuda", ":0"))
    try:
        torch.save(state, path)
    finally:
        torch.serialization.location_tag = tag
    return path


def size_by_older_torch(path: Path) -> int:
    """The file's size without the two small records that a newer torch puts in front of the tensors."""
    added, size = ("/.format_version", "/.storage_alignment"), path.stat().st_size
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
        extra = [record for record in records if record.filename.endswith(added)]
        if not extra:
            return size
        after = next(record for record in records[records.index(extra[-1]) + 1 :])
        file.seek(after.header_offset + 28)
        start = after.header_offset + 30 + len(after.filename) + int.from_bytes(file.read(2), "little")
        earlier = (
            -(-(extra[0].header_offset + 30 + len(after.filename) + 4) // 64) * 64
        )  # contents lie at multiples of 64
    return size - (start - earlier) - sum(46 + len(record.filename) for record in extra)


def only_trained(module: nn.Module, words: tuple[str, ...]) -> nn.Module:
    """A module built without memory: random numbers for what is kept of it, the rest left on the meta device."""
    for name, parameter in list(module.named_parameters()):
        if any(word in name for word in words):
            holder, _, last = name.rpartition(".")
            module.get_submodule(holder).register_parameter(last, nn.Parameter(torch.randn(parameter.shape) * 0.02))
    return module


def at_real_size(path: Path, config: ModelConfig) -> tuple[Path, Decoder]:
    """The pickle at its real widths, the base left out; and the decoder in it."""
    with torch.device("meta"):
        denoiser, vae, decoder = pieces(config)
    decoder = Decoder(KolorsInteraction if config.unet else CogView4Interaction, config.decoder.text_channels)
    only_trained(denoiser, ("lora", "conv_in") if config.unet else ("lora",))
    only_trained(vae, ("lora", "skip"))
    return save(path, config, denoiser, vae, decoder), decoder
