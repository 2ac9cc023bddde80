"""SAM-TS's weights: Hi-SAM's published files with SAM's beside them, training checkpoints, and files of our own."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tadisr.errors import CheckpointError, ConfigError
from tadisr.safetensors_file import read_table, write_safetensors
from tadisr.validation import build_dataclass, parse_json

from .network import VARIANTS, SamTS, SamTSConfig

log = logging.getLogger(__name__)

FORMAT = "1"
ENCODER = "image_encoder."
FILES = {"vit_b": "sam_vit_b_01ec64.pth", "vit_l": "sam_vit_l_0b3195.pth", "vit_h": "sam_vit_h_4b8939.pth"}


def load_sam_ts(path: str | Path, *, sam: str | Path | None = None, config: SamTSConfig | None = None) -> SamTS:
    """Load SAM-TS from a `.pth` of Hi-SAM's (published, or a training checkpoint) or a `.safetensors` of this project.

    sam: SAM's `sam_vit_*.pth`, for a file without the frozen part of the image encoder; None: the published name beside the
    file. config: None: detected from the file. Raises CheckpointError.

    sam: SAM's own `sam_vit_*.pth`, for a file without the frozen part of the image encoder; not given, it is looked for
    beside the file under its published name. config: None: told from the file. Raises CheckpointError.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        own, tensors = read_own(path)
        return _fill(config or own, tensors, str(path))
    tensors = read_pickle(path)
    config = config or detect_variant(tensors, path)
    if _lacks_encoder(tensors):
        sam = Path(sam) if sam is not None else _beside(path, config)
        under = read_pickle(sam)
        tensors = {**under, **tensors}
        return _fill(config, tensors, f"{path} with {sam}")
    return _fill(config, tensors, str(path))


def from_sam(sam: str | Path, *, config: SamTSConfig | None = None) -> SamTS:
    """Build SAM-TS from SAM's weights with fresh adapters, aligner and high-resolution branch, to start training from.

    The adapters start as the identity. Raises CheckpointError.
    """
    tensors = read_pickle(sam)
    model = SamTS(config or detect_variant(tensors, Path(sam)))
    for name, parameter in model.named_parameters():
        if "Adapter.D_fc2" in name:
            torch.nn.init.zeros_(parameter)
        elif name.startswith("modal_aligner.conv."):
            torch.nn.init.kaiming_normal_(parameter)
    fresh = {k: v for k, v in model.state_dict().items() if is_new(k)}
    model.load_state_dict(_fitting(model, {**fresh, **tensors}, str(sam)))
    return model


def is_new(name: str) -> bool:
    """Tell whether SAM-TS adds this tensor to SAM."""
    return "Adapter" in name or name.startswith("modal_aligner.") or "_hr." in name


def read_pickle(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.pth` with weights_only, without the wrapping of a training checkpoint. Raises CheckpointError."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint of plain tensors: {_first_line(error)}") from error
    if isinstance(data, dict) and isinstance(data.get("model"), dict):
        data = data["model"]  # a training checkpoint: optimizer, lr_scheduler, epoch lie beside it
    if not isinstance(data, dict) or not data or not all(isinstance(v, Tensor) for v in data.values()):
        raise CheckpointError(f"{path} is no table of tensors: expected a checkpoint of SAM or of Hi-SAM.")
    return {str(name).removeprefix("module."): tensor for name, tensor in data.items()}


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200] or type(error).__name__


def detect_variant(tensors: dict[str, Tensor], path: Path) -> SamTSConfig:
    """Detect the published variant by width and depth. Raises CheckpointError."""
    adapters, norms = "image_encoder.blocks.0.Space_Adapter.D_fc2.weight", "image_encoder.blocks.0.norm1.weight"
    if adapters not in tensors and norms not in tensors:
        raise CheckpointError(f"{path} has no image_encoder.blocks: expected a checkpoint of SAM-TS or of SAM.")
    width = len(tensors[adapters] if adapters in tensors else tensors[norms])
    depth = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("image_encoder.blocks."))
    for config in VARIANTS.values():
        if (config.width, config.depth) == (width, depth):
            return config
    known = ", ".join(f"{name} {config.width} x {config.depth}" for name, config in VARIANTS.items())
    raise CheckpointError(f"{path} has an encoder of width {width} and depth {depth}; known are {known}.")


def _lacks_encoder(tensors: dict[str, Tensor]) -> bool:
    return f"{ENCODER}patch_embed.proj.weight" not in tensors


def _beside(path: Path, config: SamTSConfig) -> Path:
    names = [name for variant, name in FILES.items() if VARIANTS[variant] == config]
    found = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    if not found:
        wanted = names[0] if names else "sam_vit_*.pth"
        raise CheckpointError(f"{path} holds no image encoder: give SAM's {wanted} as sam, or put it beside the file.")
    log.info("the image encoder comes from %s", found[0])
    return found[0]


def _fill(config: SamTSConfig, tensors: dict[str, Tensor], where: str) -> SamTS:
    with torch.device("meta"):
        model = SamTS(config)
    model.load_state_dict(_fitting(model, tensors, where), assign=True)
    return model.float().eval()


def _fitting(model: SamTS, tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """The model's own tensors out of a table; Hi-SAM's decoder of words and lines, if there is one, is left out."""
    own = model.state_dict()
    given = {k: v for k, v in tensors.items() if not k.startswith("hi_decoder.")}
    missing, unknown = [k for k in own if k not in given], [k for k in given if k not in own]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has the unknown {unknown[0]}"
        raise CheckpointError(f"{where} {what} ({len(missing)} missing, {len(unknown)} unknown): no SAM-TS.")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise CheckpointError(f"{where}: {name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)}.")
    return given


# ---- our own files --------------------------------------------------------------------------------------------------


def save_sam_ts(model: SamTS, path: str | Path, *, training: dict[str, Any] | None = None) -> None:
    """Save the model with its format, config and training in the header (`tadisr.segmenter`, `tadisr.config`,
    `tadisr.training`).
    """
    metadata = {
        "format": "pt",
        "tadisr.segmenter": FORMAT,
        "tadisr.config": json.dumps(dataclasses.asdict(model.config)),
        "tadisr.training": json.dumps(training or {}),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_safetensors(Path(path), tensors, metadata)


def is_own(path: Path) -> bool:
    """Tell whether a safetensors file is a segmenter's. Raises CheckpointError for a broken one."""
    return "tadisr.segmenter" in _metadata(path)


def read_own(path: Path) -> tuple[SamTSConfig, dict[str, Tensor]]:
    """Read config and tensors of a segmenter of this project. Raises CheckpointError."""
    metadata = _metadata(path)
    if metadata.get("tadisr.segmenter") != FORMAT:
        found = metadata.get("tadisr.segmenter", "none")
        raise CheckpointError(f"{path} has the segmenter format {found}, this version reads {FORMAT}.")
    try:
        config = build_dataclass(SamTSConfig, parse_json(metadata["tadisr.config"]), str(path))
    except (KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} has a header this version cannot read: {error}") from error
    table = read_table(path)
    return config, dict(table.read({name: name for name in table.entries}))


def _metadata(path: Path) -> dict[str, str]:
    return read_table(path).metadata
