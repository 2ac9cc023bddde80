"""Model configuration: frozen dataclasses and their JSON form; `tadisr.presets` has whole sets of choices.

Every choice on which the paper is silent is a field here, so the other reading is one word away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from .base_arguments import check_base_arguments, count_layers
from .errors import ConfigError
from .validation import Length, Range, build_dataclass

Channels = Annotated[tuple[int, ...], Range(1, 16_384), Length(2, 9)]
SCALE = 4  # the network's own magnification: LR is resized x4 before it is encoded


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The base's noise schedule and the one timestep that is used (Sec. 4.1: t = 200). `model/schedule.py` computes with it."""

    prediction: Literal["noise", "flow"] = "noise"  # what the base was trained to say: Eq. 1's n, or a flow's velocity
    timestep: Annotated[int, Range(0, 100_000)] = 200
    train_steps: Annotated[int, Range(2, 100_000)] = 1100
    beta_start: Annotated[float, Range(0, 0.999)] = 0.00085
    beta_end: Annotated[float, Range(0, 0.999)] = 0.014
    alpha_bar: Annotated[float | None, Range(1e-6, 1)] = (
        None  # given: used as it is (the authors' release borrows sd-turbo's)
    )
    shift: Annotated[float, Range(1e-3, 1000)] = (
        1.0  # of a flow's sigmas, before the timestep nearest to `timestep` is chosen among them
    )


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The fixed prompt. `tokens` x `width` is the shape of its embedding."""

    text: Annotated[str, Length(0, 20_000)] = "best quality,highres,extremely detailed,text"
    word: Annotated[str, Length(0, 1000)] = "text"
    tokens: Annotated[int, Range(1, 4096)] = 256
    width: Annotated[int, Range(1, 16_384)] = 4096
    pooled: Annotated[int, Range(0, 16_384)] = 4096  # width of the pooled embedding, 0: the base takes none
    # SDXL's (original size, crop, target size) micro-conditioning; empty: the base takes none; None: the size of the
    # image at hand, uncropped. The paper does not publish its values: the training tile's size, crop (0, 0).
    time_ids: Annotated[tuple[int, ...] | None, Range(0, 65_536), Length(0, 64)] = (768, 768, 0, 0, 768, 768)
    learned: bool = False  # the rows are parameters of the model (compact), not an encoder's output


@dataclass(frozen=True, kw_only=True)
class TextAttentionConfig:
    """Layers, heads and kind of the responses that make a_tex (Sec. 3.2)."""

    enabled: bool = True  # False: the paper's ablation "w/o TACA", the latent itself feeds the text decoder
    response: Literal["score", "probability"] = "score"  # Eq. 3's q.k/sqrt(d), or the softmax as DAAM records it
    mid_block: bool = True  # also the layers of the U-Net's mid block
    heads: Literal["all", "second_half"] = "all"
    # How responses of smaller layers are brought to the latent's size; the authors' code (DAAM's) is bicubic and clamps at 0.
    resize: Literal["bilinear", "clamped_bicubic"] = "bilinear"
    position: Annotated[int | None, Range(0, 4095)] = (
        None  # None: the word's own tokens; a number: that row of the prompt
    )


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """A trunk of plain convolutions at LR resolution in place of the image decoder's last up block."""

    channels: Annotated[int, Range(1, 4096)] = 64
    blocks: Annotated[int, Range(1, 256)] = 16  # residual blocks of two 3x3 convolutions
    sections: Annotated[int, Range(1, 64)] = (
        4  # of about as many blocks each, a light CDIB to the text stream before each
    )
    guide: bool = True  # the text stream takes a text mask that a user drew
    certainty: bool = True  # a third output: how sure the network is of each pixel
    detail: Annotated[float, Range(0, 1)] = (
        0.7  # default of `detail`: 1 is all that the network adds, 0 only where it is sure
    )


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The joint segmentation decoders (Sec. 3.3)."""

    joint: bool = True  # False: the paper's ablation "w/o JSD", the image decoder alone
    block: Literal["paper", "kolors-release", "cogview4-release"] = "paper"  # Fig. 2's CDIB, or those of the releases
    # What enters the text decoder: a_tex, or a guess that the releases need: the image stream after its mid block.
    source: Literal["attention", "image"] = "attention"
    # Input width of the text decoder and the output width of each of its up blocks. With a trunk it has one up block less.
    text_channels: Channels = (512, 512, 512, 256, 256)
    text_layers: Annotated[int, Range(1, 32)] = 2  # residual blocks in each of its up blocks
    text_mid_block: bool = False  # a mid block between W_a and the up blocks
    norm_groups: Annotated[int, Range(1, 1024)] = 32
    skips: bool = True  # 1x1 convolutions from the encoder into every up block but the first
    zero_skips: bool = True  # they start at zero (a pretrained decoder must not notice them)
    unused_skip: bool = False  # one for the first up block too, kept and never used, as the releases have it
    trunk: TrunkConfig | None = None  # in place of the image decoder's last up block; None: the VAE's own


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Fig. 2: LoRA on the U-Net (or what stands in its place) and on the image decoder. Targets: suffixes of names."""

    encoder: bool = False  # on the VAE's encoder as well
    unet_whole: Annotated[tuple[str, ...], Length(0, 64)] = ()  # layers that are trained and kept whole instead

    unet_rank: Annotated[int, Range(1, 4096)] = 4
    vae_rank: Annotated[int, Range(1, 4096)] = 2
    alpha: Annotated[float, Range(-1e4, 1e4)] = 8.0
    unet_targets: Annotated[tuple[str, ...], Length(0, 256)] = (
        "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out",
        "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    )  # fmt: skip
    vae_targets: Annotated[tuple[str, ...], Length(0, 256)] = (
        "conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole TADiSR. Its base is a VAE and a denoiser: a U-Net or, where `transformer` is given, that.

    Each is the arguments of diffusers' class: AutoencoderKL, UNet2DConditionModel, CogView4Transformer2DModel.
    """

    name: Annotated[str, Length(1, 100)]
    unet: dict[str, Any] = field(default_factory=dict)
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any]
    # The VAE sees pixel_unshuffle(image, patch): compact puts its work at LR resolution this way.
    patch: Annotated[int, Range(1, 64)] = 1
    residual: bool = False  # the decoders' image is added to the upscaled input
    # Pixels of the x4 image that two tiles share unless told otherwise; 256 is the authors'. How far the compact models'
    # tiles reach into one another was measured: tests/measure/tile_overlap.py.
    overlap: Annotated[int, Range(0, 4096)] = 256
    latent: Literal["mode", "sample"] = "mode"  # of the encoder's posterior; a sample's noise is always the same
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    text_attention: TextAttentionConfig = field(default_factory=TextAttentionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    lora: LoRAConfig | None = field(default_factory=LoRAConfig)  # None: every weight is trained and stored

    def __post_init__(self) -> None:
        if bool(self.unet) == bool(self.transformer):
            raise ConfigError(
                f"The {self.name} config has {'both' if self.unet else 'neither'} a unet and a transformer."
            )
        for part in self.parts:
            check_base_arguments(getattr(self, part), part)
        levels = len(self.vae["block_out_channels"]) - (self.decoder.trunk is not None)
        given = len(self.decoder.text_channels)
        if self.decoder.joint and given != levels + 1:
            raise ConfigError(
                f"decoder.text_channels has {given} widths, expected {levels + 1}: the input's, and one for each of {levels} "
                "up blocks."
            )
        if self.schedule.timestep >= self.schedule.train_steps:
            raise ConfigError(
                f"schedule.timestep is {self.schedule.timestep}, expected less than train_steps, {self.schedule.train_steps}."
            )
        if (self.text_attention.position or 0) >= self.prompt.tokens:
            raise ConfigError(
                f"text_attention.position is {self.text_attention.position}, the prompt has {self.prompt.tokens} tokens."
            )

    @property
    def denoiser(self) -> str:
        """The base's part that denoises, by the name of its module, its folder and its keys on disk."""
        return "transformer" if self.transformer else "unet"

    @property
    def parts(self) -> tuple[str, str]:
        """The base's parts by those names."""
        return self.denoiser, "vae"

    @property
    def scale(self) -> int:
        return SCALE

    @property
    def latent_factor(self) -> int:
        """Pixels of the image to one of the latent, along a side (8 for all presets)."""
        return self.patch * 2 ** (len(self.vae["block_out_channels"]) - 1)

    @property
    def multiple(self) -> int:
        """Both sides of the upscaled input must be multiples of this."""
        if self.transformer:
            return self.latent_factor * self.transformer["patch_size"]
        return self.latent_factor * 2 ** (len(self.unet["block_out_channels"]) - 1)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelConfig:
        """Build a config from `to_dict`'s table, also after a round trip through JSON. Raises ConfigError on unknown fields."""
        return build_dataclass(cls, data, "config")

    @property
    def layers(self) -> int:
        """Residual and transformer blocks of the whole model, roughly. Each has at least one tensor of its own."""
        counted = sum(count_layers(getattr(self, part)) for part in self.parts)
        counted += self.decoder.trunk.blocks if self.decoder.trunk is not None else 0
        return counted + (self.decoder.text_layers * len(self.decoder.text_channels) if self.decoder.joint else 0)
