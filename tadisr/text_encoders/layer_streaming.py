"""Run a large transformer with the memory of one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

Progress = Callable[[int, int], None]


def stream_layers(
    layers: Sequence[nn.Module], fill: Callable[[nn.Module, int], None], progress: Progress | None
) -> None:
    """Give each layer its weights by `fill(layer, number)` before it runs, and drop them after it."""

    def attach_hooks(layer: nn.Module, number: int) -> None:
        def drop_weights(*_: Any) -> None:
            layer.to("meta")
            if progress is not None:
                progress(number + 1, len(layers))

        layer.register_forward_pre_hook(lambda *_: fill(layer, number))
        layer.register_forward_hook(drop_weights)

    for number, layer in enumerate(layers):
        attach_hooks(layer, number)
