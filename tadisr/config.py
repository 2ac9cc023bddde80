"""What a model is made of: frozen dataclasses and their JSON form; `tadisr.presets` has whole sets of choices.

Every choice on which the paper is silent is a field here, so the other reading is one word away.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import ConfigError

SCALE = 4  # the network's own magnification: LR is resized x4 before it is encoded


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """The base's noise schedule and the one timestep that is used (Sec. 4.1: t = 200). `model/schedule.py` computes with it."""

    prediction: Literal["noise", "flow"] = "noise"  # what the base was trained to say: Eq. 1's n, or a flow's velocity
    timestep: int = 200
    train_steps: int = 1100
    beta_start: float = 0.00085
    beta_end: float = 0.014
    alpha_bar: float | None = None  # given: used as it is (the authors' release borrows sd-turbo's)
    shift: float = 1.0  # of a flow's sigmas, before the timestep nearest to `timestep` is chosen among them


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """The fixed prompt. `tokens` x `width` is the shape of its embedding."""

    text: str = "best quality,highres,extremely detailed,text"
    word: str = "text"
    tokens: int = 256
    width: int = 4096
    pooled: int = 4096  # width of the pooled embedding, 0: the base takes none
    # SDXL's (original size, crop, target size) micro-conditioning; empty: the base takes none; None: the size of the
    # picture at hand, uncropped. The paper does not publish its values: the training tile's size, crop (0, 0).
    time_ids: tuple[int, ...] | None = (768, 768, 0, 0, 768, 768)
    learned: bool = False  # the rows are parameters of the model (compact), not an encoder's output


@dataclass(frozen=True, kw_only=True)
class TextAttentionConfig:
    """Which responses to the word make a_tex (Sec. 3.2)."""

    enabled: bool = True  # False: the paper's ablation "w/o TACA", the latent itself feeds the text decoder
    response: Literal["score", "probability"] = "score"  # Eq. 3's q.k/sqrt(d), or the softmax as DAAM records it
    mid_block: bool = True  # also the layers of the U-Net's mid block
    heads: Literal["all", "second_half"] = "all"
    position: int | None = None  # None: the word's own tokens; a number: that row of the prompt


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """A trunk of plain convolutions at LR resolution in place of the image decoder's last up block."""

    channels: int = 64
    blocks: int = 16  # residual blocks of two 3x3 convolutions
    sections: int = 4  # of about as many blocks each, tied to the text stream by a light CDIB before each
    guide: bool = True  # the text stream takes a text mask that a user drew
    certainty: bool = True  # a third output: how sure the network is of each pixel
    detail: float = 0.7  # default of `detail`: 1 is all that the network adds, 0 only where it is sure


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The joint segmentation decoders (Sec. 3.3)."""

    joint: bool = True  # False: the paper's ablation "w/o JSD", the image decoder alone
    block: Literal["paper", "kolors-release", "cogview4-release"] = "paper"  # Fig. 2's CDIB, or those of the releases
    # What enters the text decoder: a_tex, or a guess that the releases need: the image stream after its mid block.
    source: Literal["attention", "image"] = "attention"
    # Input width of the text decoder and the output width of each of its up blocks. With a trunk it has one up block less.
    text_channels: tuple[int, ...] = (512, 512, 512, 256, 256)
    text_layers: int = 2  # residual blocks in each of its up blocks
    text_mid_block: bool = False  # a mid block between W_a and the up blocks
    norm_groups: int = 32
    skips: bool = True  # 1x1 convolutions from the encoder into every up block but the first
    zero_skips: bool = True  # they start at zero (a pretrained decoder must not notice them)
    unused_skip: bool = False  # one for the first up block too, kept and never used, as the releases have it
    trunk: TrunkConfig | None = None  # in place of the image decoder's last up block; None: the VAE's own


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Fig. 2: LoRA on the U-Net (or what stands in its place) and on the image decoder. Targets: suffixes of names."""

    encoder: bool = False  # on the VAE's encoder as well
    unet_whole: tuple[str, ...] = ()  # layers that are trained and kept whole instead

    unet_rank: int = 4
    vae_rank: int = 2
    alpha: float = 8.0
    unet_targets: tuple[str, ...] = (
        "to_k", "to_q", "to_v", "to_out.0", "conv", "conv1", "conv2", "conv_shortcut", "conv_out",
        "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
    )  # fmt: skip
    vae_targets: tuple[str, ...] = (
        "conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole TADiSR. Its base is a VAE and a denoiser: a U-Net or, where `transformer` is given, that.

    Each is the arguments of diffusers' class: AutoencoderKL, UNet2DConditionModel, CogView4Transformer2DModel.
    """

    name: str
    unet: dict[str, Any] = field(default_factory=dict)
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any]
    # The VAE sees pixel_unshuffle(picture, patch): compact puts its work at LR resolution this way.
    patch: int = 1
    residual: bool = False  # the decoders' picture is added to the upscaled input
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
        """Pixels of the picture to one of the latent, along a side (8 for all presets)."""
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
        """The inverse of `to_dict` (also after a round through JSON). Raises ConfigError on unknown fields."""
        return build(cls, data, "config")


def build(cls: type, data: Any, where: str) -> Any:
    """A dataclass from a table of its fields, checked strictly. Raises ConfigError naming the field `where.name`."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {type(data).__name__}, expected a table of fields.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        known = ", ".join(hints)
        raise ConfigError(f"{where} has the unknown field {unknown[0]!r}; known are {known}.")
    try:
        return cls(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()})
    except TypeError as error:
        raise ConfigError(f"{where} is incomplete: {error}.") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _any_of(options, value, where)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{where} is {value!r}, expected one of {', '.join(map(repr, options))}.")
        return value
    if origin is tuple:
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}, expected {plain.__name__}.")
    return value


def _any_of(options: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as the first of a union's members that takes it."""
    if value is None and type(None) in options:
        return None
    members = [option for option in options if option is not type(None)]
    problems = []
    for option in members:
        try:
            return _value(option, value, where)
        except ConfigError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    raise ConfigError(" Or: ".join(map(str, problems)))
