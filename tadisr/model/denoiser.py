"""One denoising step in closed form (Eq. 1), the text-aware cross-attention listening."""

from __future__ import annotations

from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from ..config import ModelConfig, ScheduleConfig
from ..errors import ConfigError
from ..prompt import Prompt
from .text_attention import Recorder


def build_denoiser(config: ModelConfig) -> ModelMixin:
    """The U-Net of Fig. 2, or the transformer that a config puts in its place; both are called alike."""
    if config.unet:
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


def denoise(
    denoiser: ModelMixin,
    recorder: Recorder,
    latent: Tensor,
    prompt: Prompt,
    schedule: ScheduleConfig,
    size: tuple[int, int],
) -> tuple[Tensor, list[Tensor]]:
    """z_H = (z_L - beta_t n) / alpha_t, with n = U(z_L; t, c_y), or a flow's step.

    latent (B, c, h, w) of a picture of `size` -> z_H of the latent's shape, and every chosen layer's response to the
    word (B, heads, h', w').
    """
    conditions = prompt.conditions(len(latent), size, latent)
    positions = prompt.word_positions(recorder.config.position)
    with recorder.listen(positions, (latent.shape[2], latent.shape[3])) as responses:
        said = denoiser(latent, schedule.time, **conditions, return_dict=False)[0]
    return schedule.step(latent, said), responses
