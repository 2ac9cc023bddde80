"""The one denoising step: Eq. 1 for a base that predicts noise, a straight path for one trained by flow matching."""

from __future__ import annotations

import math

from torch import Tensor

from ..config import ScheduleConfig


def denoise_latent(schedule: ScheduleConfig, latent: Tensor, prediction: Tensor) -> Tensor:
    """Compute z_H from z_L and the denoiser's output: Eq. 1, z_H = (z_L - beta_t n) / alpha_t, or z_L - sigma v.

    latent and prediction (B, c, h, w) -> (B, c, h, w).
    """
    if schedule.prediction == "flow":
        return latent - nearest_sigma(schedule) * prediction
    alpha, beta = alpha_beta(schedule)
    return (latent - beta * prediction) / alpha


def denoiser_time(schedule: ScheduleConfig) -> float:
    """Return the timestep passed to the denoiser; for flow matching, the nearest sigma times `train_steps`."""
    return schedule.timestep if schedule.prediction == "noise" else nearest_sigma(schedule) * schedule.train_steps


def nearest_sigma(schedule: ScheduleConfig) -> float:
    """Return the flow's sigma, the share of noise, whose timestep is nearest to `timestep`."""
    fractions = (i / schedule.train_steps for i in range(1, schedule.train_steps + 1))
    sigmas = [schedule.shift * x / (1 + (schedule.shift - 1) * x) for x in fractions]
    return min(sigmas, key=lambda sigma: abs(sigma * schedule.train_steps - schedule.timestep))


def alpha_beta(schedule: ScheduleConfig) -> tuple[float, float]:
    """Return alpha_t and beta_t of Eq. 1: sqrt(abar_t) and sqrt(1 - abar_t) of the scaled-linear schedule."""
    if schedule.alpha_bar is not None:
        return math.sqrt(schedule.alpha_bar), math.sqrt(1 - schedule.alpha_bar)
    lo, hi = math.sqrt(schedule.beta_start), math.sqrt(schedule.beta_end)
    step = (hi - lo) / (schedule.train_steps - 1)
    alpha_bar = math.prod(1 - (lo + step * i) ** 2 for i in range(schedule.timestep + 1))
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
