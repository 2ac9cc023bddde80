"""Learning rate, moving average of the weights, and detection of a diverging loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..config import FitConfig


def learning_rate(config: FitConfig, step: int) -> float:
    """Compute a step's learning rate: linear warm-up, then constant as in the paper, or a cosine down to 1 %."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class EMA:
    """An exponential moving average of the trained weights, nearer to them while the run is young."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average after a step; the decay grows from (1 + step) / (10 + step) to its full value."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                self.shadow[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the averaged ones; a second call brings them back."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                kept = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name].copy_(kept)


class Watch:
    """Detect a non-finite loss, or one above `factor` x the running mean after 50 steps."""

    SETTLED = 50  # steps before a leap counts

    def __init__(self, factor: float, state: list[float] | None = None) -> None:
        self.factor, (self.mean, self.seen) = factor, state or (0.0, 0)

    def find_problem(self, loss: float) -> str | None:
        """Describe what is wrong with this step's loss; None if nothing is."""
        if not math.isfinite(loss):
            return f"The loss is {loss}"
        if self.factor and self.seen >= self.SETTLED and loss > self.factor * self.mean:
            return f"The loss leapt to {loss:.4g}, {loss / self.mean:.0f} times its running mean"
        self.seen += 1
        weight = max(0.02, 1 / self.seen)
        self.mean += weight * (loss - self.mean)
        return None

    def state(self) -> list[float]:
        """Return what `Watch` needs to resume."""
        return [self.mean, self.seen]
