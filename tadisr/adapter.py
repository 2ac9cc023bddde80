"""The trained part on disk: one .safetensors whose header says what it is (DESIGN: "Files we write").

A compact model holds `unet.` and `vae.` in full; an adapter for a frozen base holds `unet_lora.` and `vae_lora.`
instead (`transformer` in place of `unet` where that is the base's denoiser). Both hold `text_attention.`, `decoder.`
and `prompt.`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .config import ModelConfig
from .errors import CheckpointError, ConfigError
from .files import write_atomic
from .lora import lora_state, merge_lora
from .model import TADiSR

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


def read_header(path: str | Path) -> Checkpoint:
    """What a checkpoint says of itself. Raises CheckpointError for a missing, truncated or foreign file."""
    path = Path(path)
    with _open(path) as file:
        metadata = file.metadata() or {}
        if "tadisr.format" not in metadata:
            raise CheckpointError(
                f"{path} is a safetensors file, but not one of TADiSR's: its header has no tadisr.format."
            )
        if metadata["tadisr.format"] != FORMAT:
            raise CheckpointError(
                f"{path} has TADiSR format {metadata['tadisr.format']}, this version reads {FORMAT}: update the pack."
            )
        try:
            config = ModelConfig.from_dict(json.loads(metadata["tadisr.config"]))
            base, training = (json.loads(metadata.get(f"tadisr.{key}", "{}")) for key in ("base", "training"))
        except (KeyError, ValueError, ConfigError) as error:
            raise CheckpointError(f"{path} has a header this version cannot read: {error}") from error
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (no mapping)
    numbers = sum(int(torch.Size(shape).numel()) for shape in shapes)
    return Checkpoint(path, FORMAT, config, base, training, len(shapes), numbers, path.stat().st_size)


def file_digest(path: Path) -> str:
    """sha256 of a file; loading does not need it, so only who shows it computes it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        head = path.open("rb").read(64)
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointError(
                f"{path} is a git-lfs pointer, not the weights: fetch it with git lfs pull."
            ) from error
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): download or copy it again."
        ) from error


def base_fingerprint(model: TADiSR) -> str:
    """The digest of the base that a model was just given."""
    return fingerprint(nn.ModuleDict({part: model.get_submodule(part) for part in model.config.parts}))


def fingerprint(module: nn.Module) -> str:
    """A digest of a base by its tensors' names, shapes and a few values each, the same in fp32 and fp16."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.flatten()[:8].to("cpu", torch.float16).view(torch.int16).tolist()
        digest.update(f"{name} {tuple(tensor.shape)} {values}".encode())
    return digest.hexdigest()


def tensors_of(model: TADiSR) -> dict[str, Tensor]:
    """The trained part of a model under the names it has on disk."""
    tensors = {f"{part}.{k}": v for part in ADDED for k, v in _part(model, part).items()}
    for part in model.config.parts:
        module = model.get_submodule(part)
        state = {f"{part}.{k}": v for k, v in module.state_dict().items()}
        if model.config.lora is not None:
            state = {f"{part}_lora.{k}": v for k, v in lora_state(module).items()}
        tensors |= state
    return tensors


def _part(model: TADiSR, name: str) -> dict[str, Tensor]:
    part = getattr(model, name)
    return {} if part is None else part.state_dict()


def save(
    model: TADiSR,
    path: str | Path,
    *,
    training: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model's trained part. `tensors` replaces its own (an EMA's), `dtype` casts what is floating."""
    path = Path(path)
    tensors = tensors_of(model) if tensors is None else tensors
    cast = {k: _storable(v, dtype) for k, v in tensors.items()}
    base: dict[str, Any] = {}
    if model.config.lora is not None:
        base = {"name": model.config.name, "digest": model.base_digest}
    metadata = {
        "format": "pt",
        "tadisr.format": FORMAT,
        "tadisr.config": json.dumps(model.config.to_dict()),
        "tadisr.base": json.dumps(base),
        "tadisr.training": json.dumps(training or {}, ensure_ascii=False),
    }
    write_atomic(path, lambda temporary: save_file(cast, temporary, metadata))


def _storable(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous()


def load_tensors(model: TADiSR, path: str | Path) -> None:
    """Put a file's tensors into a model that was built from its config, LoRA merged into the base.

    Raises CheckpointError when a tensor is missing, unknown or of another shape, or the base is another one.
    """
    header = read_header(path)
    with _open(header.path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if model.config.lora is not None:
        if header.base.get("digest") != model.base_digest:
            raise CheckpointError(
                f"{path} was trained on the base {header.base.get('name')} with digest "
                f"{str(header.base.get('digest'))[:12]}, the base given has {str(model.base_digest)[:12]}: use the same one."
            )
        for part in model.config.parts:
            merge_lora(model.get_submodule(part), _pop(tensors, f"{part}_lora."), model.config.lora.alpha, str(path))
    parts = ADDED if model.config.lora is not None else ADDED + model.config.parts
    for part in parts:
        module = getattr(model, part)
        if module is not None:
            _load_strict(module, _pop(tensors, f"{part}."), f"{path}, part {part}")
    if tensors:
        raise CheckpointError(f"{path} has tensors its own config knows nothing of, the first {next(iter(tensors))}.")


def _pop(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}


def _load_strict(module: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
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
    if "positions" in tensors:
        module.get_buffer("positions").resize_(tensors["positions"].shape)
    module.load_state_dict(tensors)
