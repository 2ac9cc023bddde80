"""The denoiser of the base: the U-Net of Fig. 2, or CogView4's transformer in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config import ModelConfig
from ..errors import ConfigError

if TYPE_CHECKING:  # diffusers takes seconds to import: it is imported where a network is built
    from diffusers.models.modeling_utils import ModelMixin


def build_denoiser(config: ModelConfig) -> ModelMixin:
    """Build the U-Net of Fig. 2, or the transformer that a config puts in its place; both are called alike.

    Raises ConfigError where the installed diffusers has no CogView4.
    """
    if config.unet:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return _from_config(UNet2DConditionModel, config.unet)
    try:
        from .cogview4_transformer import Transformer
    except ImportError as error:
        raise ConfigError(
            f"The {config.name} model needs a diffusers that has CogView4 ({error}): pip install -U diffusers."
        ) from error
    return _from_config(Transformer, config.transformer)


def _from_config(kind: type[ModelMixin], arguments: dict[str, Any]) -> ModelMixin:
    return kind.from_config(arguments)  # pyright: ignore[reportAttributeAccessIssue]
