"""A training run's settings: one YAML file, checked strictly, with a `base` file it may start from."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tadisr.config import ModelConfig
from tadisr.errors import ConfigError
from tadisr.presets import preset
from tadisr.validation import build_dataclass, shorten_value

View = Literal["crop", "whole", "zoom"]


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One data set of pairs on disk, in a layout that train/data/pairs.py knows."""

    kind: Literal["ftsr", "realce", "pairs", "rendered", "pool"] = "pairs"
    folder: str | None = None  # needed by all but `rendered`
    held_out: str | None = None  # folder that validation and the panels draw from; None: the test part of `folder`
    # Share of the samples; None: the number of its images, as if all were in one folder; 0: the source is not opened.
    weight: float | None = None
    degradation: dict[str, float] = field(default_factory=dict)  # LR is made from HR by these; empty: LR as on disk
    view: View | None = None  # None: data.view


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Sources of the (LR, HR, mask) triplets: `kind` and `folder`, or a `mixture` of `sources`."""

    kind: Literal["rendered", "ftsr", "realce", "pairs", "pool", "mixture"] = "rendered"
    folder: str | None = None  # of ftsr, realce, pairs: its train part is trained on, all of it where it has no parts
    held_out: str | None = None  # as in SourceConfig
    sources: dict[str, SourceConfig] = field(default_factory=dict)  # of a mixture, by names of your own
    crop: int = 128  # HR pixels along a side
    # How a pair on disk becomes a sample of crop x crop, see data/views.py. crop: a random window at the image's own size;
    # whole: the whole image, its longest side resized to `crop`; zoom: a share of the samples enlarged and cut, else whole.
    view: View = "crop"
    smaller: Literal["pad", "enlarge"] = (
        "pad"  # an image smaller than the crop: pad it, or resize its short side to `crop`
    )
    zoom: tuple[float, float] = (2.0, 6.0)  # of `zoom`: the longest side in multiples of `crop`
    zoom_share: float = 0.7  # of `zoom`: the share of samples that is enlarged
    small_text: float = 1.0  # how often a pair with text under 20 LR pixels is drawn, relative to the others
    backgrounds: tuple[str, ...] = ()  # rendered: folders of photographs; empty: procedural ones
    fonts: tuple[str, ...] = ("/usr/share/fonts",)  # rendered
    degradation: dict[str, float] = field(default_factory=dict)  # preset -> weight; rendered: none is ftsr's
    camera: float = 0.0  # rendered: share of HR images that look photographed, see RenderedText
    text_scale: float = 1.0  # rendered: how much larger the text is; at 1 less than half of it can be read in LR
    walls: float = 0.1  # rendered: share of the grounds that are masonry
    words: tuple[str, ...] = ()  # rendered: text files that words are taken from; empty: a built-in list
    guided: float = 0.0  # share of the samples with a text mask, drawn as by hand, for the text stream
    workers: int = 1

    def __post_init__(self) -> None:
        sources = {
            name: source
            if isinstance(source, SourceConfig)
            else build_dataclass(SourceConfig, source, f"data.sources.{name}")
            for name, source in self.sources.items()
        }
        object.__setattr__(self, "sources", sources)


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Scores on held-out images during the run; the best checkpoint by each is kept."""

    every: int = 0  # steps; 0: never
    pictures: int = 32  # the middle crop of each
    ocr: Literal["off", "auto", "paddleocr", "rapidocr"] = "off"  # the engine of OCR-A
    minimum: float = 0.8  # confidence of the lines that OCR-A counts
    sources: tuple[str, ...] = ()  # of a mixture: those that are validated and drawn in the panel; none: all that train
    best: tuple[
        str, ...
    ] = ()  # of these: those whose scores choose the best-*.safetensors; none: all that are validated


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of Sec. 3.4. Zero switches a term off; LPIPS is switched off by the word."""

    mse: float = 1.0
    lpips: float | Literal["off"] = 5.0  # lambda_1
    lpips_net: Literal["vgg", "alex"] = "vgg"  # the paper names no network; vgg in the authors' training code
    # Range of the images that LPIPS sees. signed: [-1, 1], as the LPIPS package documents it; unit: [0, 1] after a clamp,
    # as the authors' training code feeds it.
    lpips_range: Literal["signed", "unit"] = "signed"
    mf: float = 10.0  # lambda_2
    gamma: float = 2.0  # of l_mf; not given in the paper, 2 in the authors' code
    seg_mse: float = 1.0
    focal: float = 10.0  # lambda_3
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    dice: float = 1.0  # lambda_4
    seg: float = 1.0  # weight of l_seg as a whole; the paper adds the two as they are
    # Each image's MSE is multiplied by balance / (balance + the MSE of its upscaled input), so that pages of pure black
    # and white do not dominate; 0: all count alike. Not in the paper.
    balance: float = 0.0
    certainty: float = 0.0  # of the certainty output's negative log likelihood; not in the paper
    grid: float = 0.0  # of a pattern that repeats with the LR pixels; not in the paper
    ocr: float = 0.0  # of what PP-OCR's recogniser sees, see losses/ocr.py; not in the paper
    ocr_kind: Literal["features", "reading", "hellinger"] = "features"
    ocr_model: str | tuple[str, ...] | None = None  # an ONNX file, or several that take turns; None: rapidocr's own
    ocr_lines: int = 4  # of each image

    @property
    def ocr_models(self) -> tuple[str, ...]:
        """The files of `ocr_model`, however many; none: rapidocr's own."""
        return (self.ocr_model,) if isinstance(self.ocr_model, str) else self.ocr_model or ()


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One run. Defaults are the paper's where it gives them (Sec. 4.1: AdamW, fixed 5e-5)."""

    out: str
    model: dict[str, Any] = field(default_factory=lambda: {"preset": "compact"})  # a preset, and fields over it
    base: str | None = None  # of a model with LoRA: the frozen base's folder, or the file of its U-Net
    vae: str | None = None  # its VAE, where the base is one file
    base_precision: Literal["fp32", "bf16"] = "fp32"  # what the frozen weights are held in
    prompt: str | None = None  # the prompt's embedding, written by python -m tadisr prompt
    init: str | None = None  # a checkpoint whose weights the run starts from
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    validate: ValidateConfig = field(default_factory=ValidateConfig)
    steps: int = 200_000
    batch: int = 1  # images a process and pass
    accumulate: int = 1  # passes to one step
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    lr: float = 5e-5
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.0  # decay; 0: none
    precision: Literal["no", "fp16", "bf16"] = "no"
    checkpointing: bool = False  # gradient checkpointing: activations are made again in the backward pass
    compile: bool = False  # torch.compile
    channels_last: bool = False  # memory format of weights and images, faster for convolutions
    seed: int = 0
    explosion: float = 100.0  # the run stops where the loss is this many times its running mean; 0: never
    log_every: int = 50
    checkpoint_every: int = 1000
    keep: int = 3  # checkpoints that are kept to resume from
    panel_every: int = 1000
    panel: int = 8  # images of it, held out


class Loader(yaml.SafeLoader):
    """YAML 1.2's booleans and numbers: `off` is a word, as in `lpips: off`, and 5e-5 is a number."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def merge_tables(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merge two tables field by field; `over` wins."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_tables(merged[key], value) if both else value
    return merged


def read_config(path: str | Path, overrides: list[str] | None = None) -> FitConfig:
    """Read a YAML file over the one its `inherit` names, then apply `key.sub=value` overrides. Raises ConfigError."""
    data = load_table(Path(path))
    for override in overrides or []:
        data = merge_tables(data, parse_override(override))
    return build_dataclass(FitConfig, data, Path(path).name)


def parse_override(override: str) -> dict[str, Any]:
    """Parse `key.sub=value` into {key: {sub: value}}. Raises ConfigError."""
    name, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no override; write key=value, for instance data.crop=64.")
    try:
        table: dict[str, Any] = yaml.load(value, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{override[:80]!r} has a value that is no YAML.") from error
    for key in reversed(name.split(".")):
        table = {key: table}
    return table


def load_table(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Load a YAML file's table over that of the file its `inherit` names. below: the files that inherit it. Raises
    ConfigError.
    """
    if not path.is_file():
        raise ConfigError(f"There is no config {path}.")
    if path.resolve() in below:
        raise ConfigError(f"{path} inherits itself, by way of {len(below)} files.")
    try:
        data = yaml.load(path.read_text("utf-8"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split()) or type(error).__name__:.200}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is no table of settings.")
    inherit = data.pop("inherit", None)
    if inherit is None:
        return data
    if not isinstance(inherit, str) or not inherit:
        raise ConfigError(f"{path} has inherit {shorten_value(inherit)}, expected the name of another config.")
    return merge_tables(load_table(path.parent / inherit, (*below, path.resolve())), data)


def build_model_config(table: dict[str, Any]) -> ModelConfig:
    """Build a ModelConfig from `{preset: NAME, field: ...}`: the preset with those fields over it. Raises ConfigError."""
    fields = dict(table)
    name = fields.pop("preset", "compact")
    if not isinstance(name, str):
        raise ConfigError(f"model.preset is {shorten_value(name)}, expected a preset's name.")
    return ModelConfig.from_dict(merge_tables(preset(name).to_dict(), fields))


def to_dict(config: FitConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)
