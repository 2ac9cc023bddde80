"""Checks of a base's arguments (those of diffusers' classes) as they stand in a config, before anything is built."""

from __future__ import annotations

from typing import Any

from .errors import ConfigError
from .validation import Range, shorten_value

REQUIRED = {
    "vae": ("in_channels", "latent_channels", "block_out_channels", "scaling_factor"),
    "unet": ("in_channels", "block_out_channels"),
    "transformer": ("in_channels", "patch_size"),
}
PER_BLOCK = ("layers_per_block", "transformer_layers_per_block")
COUNTS = Range(1, 64)  # of layers in a block, and of a transformer's blocks
MOST_LAYERS = 2048  # of one part; Kolors' U-Net has 140
POSITIVE = (
    "in_channels", "out_channels", "latent_channels", "block_out_channels", "norm_num_groups", "patch_size",
    "scaling_factor", "attention_head_dim", "num_attention_heads", "cross_attention_dim",
)  # fmt: skip


def check_base_arguments(arguments: dict[str, Any], part: str) -> None:
    """Raise ConfigError for arguments of a base's part that no model has. What they build is checked when it is built."""
    for name in REQUIRED[part]:
        if arguments.get(name) is None:
            raise ConfigError(f"{part} has no {name}.")
    blocks = arguments.get("block_out_channels", [1])
    if not isinstance(blocks, (list, tuple)) or not 1 <= len(blocks) <= 8:
        raise ConfigError(f"{part}.block_out_channels is {shorten_value(blocks)}, expected a list of 1 to 8 widths.")
    for name, value in arguments.items():
        for one in _flat(value, f"{part}.{name}"):
            if name in (*PER_BLOCK, "num_layers") and (not isinstance(one, int) or isinstance(one, bool)):
                raise ConfigError(f"{part}.{name} is {shorten_value(value)}, expected whole numbers of layers.")
            if isinstance(one, bool) or not isinstance(one, (int, float)):
                continue
            if name in (*PER_BLOCK, "num_layers"):
                COUNTS.check(one, f"{part}.{name}")
            low = 1e-9 if name in POSITIVE else -1_000_000
            Range(low, 1_000_000).check(one, f"{part}.{name}")
    for name in ("in_channels", "latent_channels", "patch_size"):
        if name in arguments and (not isinstance(arguments[name], int) or isinstance(arguments[name], bool)):
            raise ConfigError(f"{part}.{name} is {shorten_value(arguments[name])}, expected a whole number.")
    if not all(isinstance(width, int) and not isinstance(width, bool) for width in blocks):
        raise ConfigError(f"{part}.block_out_channels is {shorten_value(blocks)}, expected whole numbers.")
    if not isinstance(arguments.get("scaling_factor", 1.0), (int, float)):
        raise ConfigError(f"{part}.scaling_factor is {shorten_value(arguments['scaling_factor'])}, expected a number.")
    if count_layers(arguments) > MOST_LAYERS:
        raise ConfigError(f"{part} has {count_layers(arguments)} layers, expected at most {MOST_LAYERS}.")


def count_layers(arguments: dict[str, Any]) -> int:
    """Count the residual and transformer blocks that the arguments describe."""
    blocks = len(arguments.get("block_out_channels", []))

    def per_block(name: str) -> list[int]:
        value = arguments.get(name, 1)
        each = [value] * blocks if isinstance(value, int) else [max(_flat(one, name), default=1) for one in value]
        return (each + [1] * blocks)[:blocks]

    residual, deep = per_block("layers_per_block"), per_block("transformer_layers_per_block")
    return sum(a * b for a, b in zip(residual, deep, strict=True)) + arguments.get("num_layers", 0)


def _flat(value: Any, where: str) -> list[Any]:
    """The values in an argument: itself, or those of its list, which may hold lists. Raises ConfigError."""
    items = value if isinstance(value, (list, tuple)) else [value]
    found = [one for item in items for one in (item if isinstance(item, (list, tuple)) else [item])]
    for one in found:
        if one is not None and not isinstance(one, (bool, int, float, str)):
            raise ConfigError(f"{where} holds {type(one).__name__}, expected numbers, words, or lists of them.")
    if len(found) > 64:
        raise ConfigError(f"{where} has {len(found)} items, expected at most 64.")
    return found
