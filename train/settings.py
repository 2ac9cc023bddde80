"""A training run's settings: one YAML file, checked strictly, with a `base` file it may start from."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from tadisr.config import ModelConfig, build, preset
from tadisr.errors import ConfigError

from .losses import LossConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the (LR, HR, mask) triplets come from."""

    kind: Literal["rendered"] = "rendered"
    crop: int = 128  # HR pixels along a side
    backgrounds: tuple[str, ...] = ()  # folders of photographs; empty: procedural ones
    fonts: tuple[str, ...] = ("/usr/share/fonts",)
    degradation: dict[str, float] = field(default_factory=lambda: {"ftsr": 1.0})  # preset -> weight
    camera: float = 0.0  # share of HR pictures that look photographed, see RenderedText
    workers: int = 1


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """One run. Defaults are the paper's where it gives them (Sec. 4.1: AdamW, fixed 5e-5)."""

    out: str
    model: dict[str, Any] = field(default_factory=lambda: {"preset": "compact"})  # a preset, and fields over it
    base: str | None = None  # folder of the frozen base, for a model with LoRA
    init: str | None = None  # a checkpoint whose weights the run starts from
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    steps: int = 200_000
    batch: int = 1
    lr: float = 5e-5
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.0  # decay; 0: none
    precision: Literal["no", "fp16", "bf16"] = "no"
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    panel_every: int = 1000
    panel: int = 8  # validation pictures, of a stream that training never sees


class Loader(yaml.SafeLoader):
    """YAML 1.2's booleans: `off` is a word, as in `lpips: off`, only true and false are booleans."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`under` with the fields of `over` on top, tables merged field by field."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def read(path: str | Path, overrides: list[str] | None = None) -> FitConfig:
    """A YAML file over the file its `inherit` names, then `key.sub=value` overrides. Raises ConfigError."""
    data = _load(Path(path))
    for override in overrides or []:
        data = merge(data, parse_override(override))
    return build(FitConfig, data, Path(path).name)


def parse_override(override: str) -> dict[str, Any]:
    """`key.sub=value` -> {key: {sub: value}}. Raises ConfigError."""
    name, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no override; write key=value, for instance data.crop=64.")
    table: dict[str, Any] = yaml.load(value, Loader)
    for key in reversed(name.split(".")):
        table = {key: table}
    return table


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no config {path}.")
    data = yaml.load(path.read_text(), Loader)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} is no table of settings.")
    inherit = data.pop("inherit", None)
    return data if inherit is None else merge(_load(path.parent / inherit), data)


def model_config(table: dict[str, Any]) -> ModelConfig:
    """`{preset: NAME, field: ...}` -> the preset with those fields over it."""
    fields = dict(table)
    return ModelConfig.from_dict(merge(preset(fields.pop("preset", "compact")).to_dict(), fields))


def to_dict(config: FitConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)
