"""One denoising step in closed form (Eq. 1), the text-aware cross-attention listening."""

from __future__ import annotations

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from .config import ScheduleConfig
from .prompt import Prompt
from .text_attention import Recorder


def denoise(
    unet: UNet2DConditionModel, recorder: Recorder, latent: Tensor, prompt: Prompt, schedule: ScheduleConfig
) -> tuple[Tensor, list[Tensor]]:
    """z_H = (z_L - beta_t n) / alpha_t, with n = U(z_L; t, c_y).

    latent (B, c, h, w) -> z_H of that shape, and every chosen layer's response to the word (B, heads, h', w').
    """
    size = (latent.shape[2], latent.shape[3])
    with recorder.listen(prompt.word_positions(recorder.config.position), size) as responses:
        noise = unet(latent, schedule.timestep, **prompt.conditions(len(latent)), return_dict=False)[0]
    alpha, beta = schedule.alpha_beta()
    return (latent - beta * noise) / alpha, responses
