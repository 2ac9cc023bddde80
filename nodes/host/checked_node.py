"""The base of all nodes: it checks what a prompt puts into their inputs."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...tadisr.errors import ConfigError
from ...tadisr.validation import shorten_value

SOURCES = {  # nodes whose output an input of this type takes
    "Loaded": "Load TADiSR Model or Load TADiSR Adapter", "Base": "Load Kolors for TADiSR", "Tiling": "TADiSR Tiling",
    "EncodedPrompt": "TADiSR Encode Prompt or Load TADiSR Prompt", "Attention": "TADiSR Denoise",
    "Tensor": "an image or mask node",
}  # fmt: skip


class Node(io.ComfyNode):
    """A node whose `execute` raises ConfigError for an input of another type than its annotation says.

    ComfyUI checks links; literals in typed sockets and in lists of choices it passes on as they stand in the prompt.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        own = vars(cls).get("execute")
        if isinstance(own, classmethod) and not hasattr(
            own.__func__, "__wrapped__"
        ):  # ComfyUI clones a class for each run
            cls.execute = classmethod(_checked(own.__func__))  # pyright: ignore[reportAttributeAccessIssue]


def _checked(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    @functools.wraps(execute)
    def run(cls: type, *arguments: Any, **inputs: Any) -> io.NodeOutput:
        hints = typing.get_type_hints(execute)
        bound = inspect.signature(execute).bind(cls, *arguments, **inputs)
        for name, value in list(bound.arguments.items())[1:]:
            check_input(name, value, hints.get(name, Any))
        return execute(cls, *arguments, **inputs)

    return run


def check_input(name: str, value: Any, hint: Any) -> None:
    """Raise ConfigError unless a value is of the annotated type; numbers are finite, a latent has samples."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if hint is Any or (value is None and type(None) in options):
        return
    kinds = tuple(typing.get_origin(option) or option for option in options)
    fine = isinstance(value, (int, float) if float in kinds else kinds) and (
        bool in kinds or not isinstance(value, bool)
    )
    if not fine:
        source = next((SOURCES[kind.__name__] for kind in kinds if kind.__name__ in SOURCES), None)
        wanted = f"a link from {source}" if source else f"a {kinds[0].__name__}"
        raise ConfigError(f"{name} is {shorten_value(value)}, expected {wanted}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} is {value}, expected a finite number.")
    if isinstance(value, dict) and (not isinstance(value.get("samples"), Tensor) or value["samples"].ndim < 2):
        raise ConfigError(f"{name} has no samples, expected a link from a node that gives a latent.")
