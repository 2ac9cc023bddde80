"""Detect a model from tensor names and shapes, and map checkpoint keys to module keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ..errors import CheckpointError
from .tensor_index import Entry, Table

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "first_stage_model.", "unet.", "vae.", "model.")
KOLORS, EARLY = "Kolors' U-Net", "an early Kolors U-Net without encoder_hid_proj"
VAE = "a VAE of SDXL's kind"
TRANSFORMER = "a diffusion transformer (Flux, SD3, CogView4 or the like)"
COGVIEW4_VAE = "a VAE of 16 latent channels"
NEWER = (
    "some copies of July 2024 are, take a newer one, such as unet/diffusion_pytorch_model.fp16.safetensors of "
    "Kwai-Kolors/Kolors-diffusers."
)


def match_names(
    table: Table, shapes: Mapping[str, tuple[int, ...]], schemes: Iterable[Mapping[str, str]]
) -> dict[str, str]:
    """Match the model's tensor names with the table's by the naming scheme and prefix that fit best.

    shapes: of the model. schemes: {name in the model: name in a file} each. Raises CheckpointError that says what the
    table is instead. A matrix may be a 1x1 convolution in the file, and the other way round.
    """
    best: dict[str, str] = {}
    prefix = ""
    for scheme in schemes:
        for start in PREFIXES:
            found = {name: start + other for name, other in scheme.items() if start + other in table.entries}
            if len(found) > len(best):
                best, prefix = found, start
    best |= {
        name: name
        for name in shapes
        if name not in best and name.startswith("encoder_hid_proj.") and name in table.entries
    }
    missing = sorted(shapes.keys() - best.keys())
    used = set(best.values())
    unknown = sorted(name for name in table.entries if name.startswith(prefix) and name not in used)
    wrong = [name for name in sorted(best) if not _fits(table.entries[best[name]].shape, shapes[name])]
    if missing or unknown or wrong:
        raise CheckpointError(_sentence(table, shapes, best, missing, unknown, wrong))
    return best


def _fits(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    def core(shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:2] if shape[2:] in ((1,), (1, 1)) else tuple(shape)

    return core(found) == core(expected)


def _sentence(
    table: Table,
    shapes: Mapping[str, tuple[int, ...]],
    best: Mapping[str, str],
    missing: list[str],
    unknown: list[str],
    wrong: list[str],
) -> str:
    kind = describe_table(table)
    if missing and not unknown and not wrong and all(name.startswith("encoder_hid_proj.") for name in missing):
        kind = EARLY
    expected = describe_table(Table("", {name: Entry(torch.float32, shape) for name, shape in shapes.items()}))
    if kind == EARLY:
        return f"{table.where} is {kind}: {NEWER}"
    if kind != expected:
        return f"{table.where} is {kind}, expected {expected}: choose the file of that."
    what = []
    if missing:
        what.append(f"lacks {len(missing)} of {len(shapes)} tensors, the first {missing[0]}")
    if unknown:
        what.append(f"has {len(unknown)} that do not belong there, the first {unknown[0]}")
    if wrong:
        found = table.entries[best[wrong[0]]].shape
        what.append(f"has {len(wrong)} of another shape: {wrong[0]} is {found}, expected {shapes[wrong[0]]}")
    return f"{table.where} is not this base, though it looks like {kind}: it {', and '.join(what)}."


def describe_table(table: Table) -> str:
    """Describe in a noun what a file holds, from its header only."""
    names = table.entries.keys()
    if "tadisr.format" in table.metadata:
        return "one of TADiSR's own files"
    if any(".lora_" in name or ".lora." in name or "lora_up" in name for name in names):
        return "a LoRA"
    if any("controlnet_cond_embedding" in name or "control_model." in name or "zero_convs." in name for name in names):
        return "a ControlNet"
    if any("self_attention.query_key_value" in name for name in names):
        return "ChatGLM's text encoder"
    unet = _unet(table)
    if unet:
        return unet
    latent = _inputs(_shape(table, "decoder.conv_in.weight"))
    if latent is not None and _shape(table, "encoder.conv_in.weight") is not None:
        if latent == 4 and _shape(table, "quant_conv.weight") is not None:
            return VAE
        return f"a VAE of {latent} latent channels"
    if any("double_blocks." in n or "joint_blocks." in n or "transformer_blocks.0." in n for n in names):
        return TRANSFORMER
    return f"something else (its first tensor is {next(iter(names))})" if names else "empty"


def _unet(table: Table) -> str | None:
    first = _inputs(_shape(table, "conv_in.weight", "input_blocks.0.0.weight"))
    query = _inputs(next((e.shape for name, e in table.entries.items() if name.endswith("attn2.to_k.weight")), None))
    if (
        first is None
        or query is None
        or not any(
            name.endswith(("up_blocks.0.resnets.0.conv1.weight", "output_blocks.0.0.in_layers.2.weight"))
            for name in table.entries
        )
    ):
        return None
    label = _inputs(_shape(table, "add_embedding.linear_1.weight", "label_emb.0.0.weight"))
    if _shape(table, "encoder_hid_proj.weight") is not None:
        return KOLORS if first == 4 else f"Kolors' inpainting U-Net ({first} input channels)"
    if label is None:
        return {768: "Stable Diffusion 1.5's U-Net", 1024: "Stable Diffusion 2's U-Net"}.get(
            query, "a Stable Diffusion U-Net"
        )
    return EARLY if label == 5632 else "SDXL's U-Net"


def _inputs(shape: tuple[int, ...] | None) -> int | None:
    """Input width of the layer whose weight has this shape; None for no weight of a layer."""
    return shape[1] if shape is not None and len(shape) > 1 else None


def _shape(table: Table, *names: str) -> tuple[int, ...] | None:
    """The shape of the first of these tensors that is there, under any prefix."""
    for name in names:
        for prefix in PREFIXES:
            if prefix + name in table.entries:
                return table.entries[prefix + name].shape
    return None
