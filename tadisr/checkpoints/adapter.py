"""The trained part on disk: one .safetensors whose header says what it is (DESIGN: "Files we write").

A compact model holds `unet.` and `vae.` in full; an adapter for a frozen base holds `unet_lora.` and `vae_lora.`
instead (`transformer` in place of `unet` where that is the base's denoiser). Both hold `text_attention.`, `decoder.`
and `prompt.`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import CheckpointError, ConfigError
from ..model import TADiSR, check_buildable
from ..model.lora import Whole, lora_state, merge_update, read_updates
from ..model.precision import FP8, LowRank, follow_input_dtype, place_tensor
from ..prompt import EncodedPrompt, Prompt, use_prompt
from ..safetensors_file import write_safetensors
from ..validation import parse_json
from .tensor_index import Table, read_table

FORMAT = "1"
ADDED = ("text_attention", "decoder", "prompt")  # what TADiSR adds to any base


@dataclass(frozen=True)
class Checkpoint:
    """A file's header, read without its tensors."""

    path: Path
    format: str
    config: ModelConfig
    base: dict[str, Any]  # name and digest of the frozen base; empty for a model that stands alone
    training: dict[str, Any]  # steps, data, commit, seed
    tensors: int
    numbers: int
    bytes: int
    prompt: bool = True  # whether it carries one; an imported release may not


def read_header(path: str | Path) -> Checkpoint:
    """Read a checkpoint's header. Raises CheckpointError if the file is missing, truncated or foreign."""
    return _header(read_table(path))


def read_config(path: str | Path) -> ModelConfig:
    """Read a checkpoint's config and check that it builds a network that runs. Raises CheckpointError."""
    config = read_header(path).config
    try:
        check_buildable(config)
    except ConfigError as error:
        raise CheckpointError(f"{path} has a config that makes no network: {error}") from error
    return config


def _header(table: Table) -> Checkpoint:
    path, metadata = Path(table.where), table.metadata
    if "tadisr.format" not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file, but not one of TADiSR's: its header has no tadisr.format."
        )
    if metadata["tadisr.format"] != FORMAT:
        raise CheckpointError(
            f"{path} has TADiSR format {metadata['tadisr.format']}, this version reads {FORMAT}: update the pack."
        )
    if "tadisr.config" not in metadata:
        raise CheckpointError(f"{path} has no tadisr.config in its header: it is damaged, download or copy it again.")
    try:
        config = ModelConfig.from_dict(parse_json(metadata["tadisr.config"]))
        base, training = (parse_json(metadata.get(f"tadisr.{key}", "{}")) for key in ("base", "training"))
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} has a header this version cannot read: {error}") from error
    digests = base.get("digest") or {} if isinstance(base, dict) else None
    if not isinstance(training, dict) or not isinstance(digests, dict):
        raise CheckpointError(
            f"{path} has no tables in its tadisr.base and tadisr.training: it is damaged, copy it again."
        )
    if config.lora is None and config.layers > len(table.entries):
        raise CheckpointError(
            f"{path} has a config of {config.layers} layers, but only {len(table.entries)} tensors: it is damaged, copy it "
            "again."
        )
    numbers = sum(torch.Size(entry.shape).numel() for entry in table.entries.values())
    prompt = any(name.startswith("prompt.") for name in table.entries)
    return Checkpoint(path, FORMAT, config, base, training, len(table.entries), numbers, path.stat().st_size, prompt)


class Fingerprint:
    """A digest of a base's part by its tensors' names, shapes and a few values each, the same in fp32 and fp16."""

    def __init__(self) -> None:
        self.lines: dict[str, str] = {}
        self.exact = True

    def add(self, name: str, tensor: Tensor) -> None:
        if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
            self.exact = False  # too few digits to be compared
        values = tensor.flatten()[:8].to("cpu", torch.float16).view(torch.int16).tolist()
        self.lines[name] = f"{name} {tuple(tensor.shape)} {values}"

    def digest(self) -> str | None:
        """Return the digest; None if only a rounded copy of the weights was seen."""
        text = "".join(self.lines[name] for name in sorted(self.lines))
        return hashlib.sha256(text.encode()).hexdigest() if self.exact else None


def trained_tensors(model: TADiSR) -> dict[str, Tensor]:
    """Return a model's trained tensors by their names on disk."""
    tensors = {f"{part}.{k}": v for part in ADDED for k, v in _part(model, part).items()}
    lora = model.config.lora
    for part in model.config.parts:
        module = model.get_submodule(part)
        state = {f"{part}.{k}": v for k, v in module.state_dict().items()}
        if lora is not None:
            whole = lora.unet_whole if part == model.config.denoiser else ()
            state = {k: v for k, v in state.items() if k.removeprefix(f"{part}.").rpartition(".")[0] in whole}
            state |= {f"{part}_lora.{k}": v for k, v in lora_state(module).items()}
        tensors |= state
    return tensors


def _part(model: TADiSR, name: str) -> dict[str, Tensor]:
    part = getattr(model, name)
    return {} if part is None else part.state_dict()


def save_checkpoint(
    model: TADiSR,
    path: str | Path,
    *,
    training: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model's trained part. tensors: instead of its own (an EMA's); dtype: of floating-point tensors."""
    tensors = trained_tensors(model) if tensors is None else tensors
    base: dict[str, Any] = {}
    if model.config.lora is not None:
        base = {"name": model.config.name, "digest": model.base_digest}
    write_checkpoint(path, model.config, tensors, base=base, training=training, dtype=dtype)


def write_checkpoint(
    path: str | Path,
    config: ModelConfig,
    tensors: dict[str, Tensor],
    *,
    base: dict[str, Any],
    training: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint from config, tensors and header fields, whole or not at all."""
    path = Path(path)
    cast = {k: _storable(v, dtype) for k, v in tensors.items()}
    metadata = {
        "format": "pt",
        "tadisr.format": FORMAT,
        "tadisr.config": json.dumps(config.to_dict()),
        "tadisr.base": json.dumps(base),
        "tadisr.training": json.dumps(training or {}, ensure_ascii=False),
    }
    write_safetensors(path, cast, metadata)


def _storable(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous()


def load_tensors(
    model: TADiSR,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    strength: float = 1.0,
    prompt: EncodedPrompt | None = None,
    apply: Callable[[nn.Module, str, LowRank | Whole], object] = merge_update,
) -> None:
    """Load a file's tensors into a model built from its config, and merge LoRA into the base.

    dtype: what the tensors become; fp8 only the denoiser's matrices, the rest `compute` (default float32). strength: of
    the LoRA, and of what was trained whole. prompt: in place of the one that the file carries. apply(part, parameter's
    name, update): what is done with both. Raises CheckpointError when a tensor is missing, unknown or of another shape,
    or the base is another one.
    """
    compute = (compute or torch.float32) if dtype == FP8 else dtype
    model.file = str(path)
    table = read_table(path)
    header = _header(table)
    tensors = dict(table.read({name: name for name in table.entries}))
    if model.config.lora is not None:
        check_base(header, model.base_digest)
        for part in model.config.parts:
            lora = _pop(tensors, f"{part}_lora.")
            module = model.get_submodule(part)
            for name, update in read_updates(module, lora, model.config.lora.alpha, str(path), strength=strength):
                apply(module, name, update)
        for layer in model.config.lora.unet_whole:
            whole = _pop(tensors, f"{model.config.denoiser}.{layer}.")
            _check(model.denoiser.get_submodule(layer), whole, f"{path}, layer {layer} of the {model.config.denoiser}")
            for name, tensor in whole.items():
                apply(model.denoiser, f"{layer}.{name}", Whole(tensor, strength))
    parts = [*ADDED, *(model.config.parts if model.config.lora is None else ())]
    if prompt is None and not header.prompt:
        raise CheckpointError(
            f"{path} carries no prompt: give it a prompt file, which python -m tadisr prompt or the node TADiSR Encode "
            f"Prompt makes once of {model.config.prompt.text!r}."
        )
    if prompt is not None:
        _pop(tensors, "prompt.")
        parts.remove("prompt")
        model.prompt = Prompt(model.config.prompt).to(compute)  # in memory, where the file's would have come
        use_prompt(model, prompt)
    for part in parts:
        module = getattr(model, part)
        if module is not None:
            fp8 = dtype == FP8 and part == model.config.denoiser
            _load_strict(module, _pop(tensors, f"{part}."), f"{path}, part {part}", compute, fp8)
    if tensors:
        raise CheckpointError(f"{path} has tensors its own config knows nothing of, the first {next(iter(tensors))}.")


def check_base(header: Checkpoint, given: dict[str, str | None]) -> None:
    """Raise CheckpointError if a part of the base is known not to be the one that the adapter was trained on."""
    for part, digest in (header.base.get("digest") or {}).items():
        own = given.get(part)
        if digest and own and digest != own:
            raise CheckpointError(
                f"{header.path} was trained on another {part} of {header.base.get('name')} (digest {digest[:12]}) than the "
                f"one given ({own[:12]}): use the same one."
            )


def _pop(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _check(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Raises CheckpointError for a tensor too few or too many, and one of another shape."""
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has the unknown tensor {unknown[0]}"
        raise CheckpointError(
            f"{where} {what} ({len(missing)} missing, {len(unknown)} unknown): not a model of this layout."
        )
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape and name != "positions":
            raise CheckpointError(
                f"{where}: {name} is {tuple(tensor.shape)}, its config makes it {tuple(own[name].shape)}."
            )


def _load_strict(module: nn.Module, tensors: dict[str, Tensor], where: str, dtype: torch.dtype, fp8: bool) -> None:
    _check(module, tensors, where)
    if fp8:
        follow_input_dtype(module)
    for name, tensor in tensors.items():
        place_tensor(module, name, tensor, dtype=dtype, fp8=fp8)
