"""A frozen base from the files that users have: its denoiser and its VAE, each found, checked by its table, and loaded.

The modules are built without memory and given their tensors one by one. A tensor that is wanted as it is stays mapped
in its file; one that is converted is read alone. So the most that is held is the weights themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from ..config import ModelConfig
from ..errors import CheckpointError
from ..model import TADiSR, precision
from ..model.denoiser import build_denoiser
from ..model.precision import FP8
from ..model.vae import build_vae
from . import key_mapping
from .adapter import Fingerprint
from .detect import match_names
from .tensor_index import Table, find_part_folder, find_table

Source = str | Path | Table  # where a part is: a path, or a table that is known already
Exact = Callable[[str, torch.Size], bool]  # whether the tensor `unet.conv_in.weight` of this shape stays float32


def load_base(
    base: Source | None,
    config: ModelConfig,
    *,
    vae: Source | None = None,
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    empty: bool = False,
    exact: Exact | None = None,
) -> TADiSR:
    """Load the base's weights into a model of `config`; what TADiSR adds to it is new, in float32, or `empty`: on the meta
    device.

    base: the folder of a diffusers model or the one file of its denoiser; vae: a folder or file of its own, which a
    single-file denoiser needs. dtype: the weights are stored in it; compute: what fp8 is computed in, default float32.
    exact: which of them are in float32 all the same, for training. Raises CheckpointError.
    """
    compute = (compute or torch.float32) if dtype == FP8 else dtype
    tables = find_base(base, config, vae=vae, dtype=dtype)
    parts, digests = {}, {}
    for part, table in tables.items():
        kind = compute if part == "vae" else dtype
        parts[part], digests[part] = load_part(config, part, table, dtype=kind, compute=compute, exact=exact)
    with torch.device("meta") if empty else nullcontext():
        model = TADiSR(config, **parts)
    model.base_digest = digests
    return model


def find_base(
    base: Source | None, config: ModelConfig, *, vae: Source | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Table]:
    """Find the tables of the base's parts, from headers only. Raises CheckpointError."""
    denoiser = config.denoiser
    if base is None:
        raise CheckpointError(
            f"The {config.name} adapter needs its base: give the folder of {config.name} that has {denoiser}/ and vae/ "
            f"in it, or the file of its {denoiser} and that of its VAE."
        )
    table = _table(base, denoiser, dtype)
    if vae is None:
        if isinstance(base, Table) or find_part_folder(Path(base), "vae").name != "vae":
            raise CheckpointError(
                f"{table.where} brings no VAE: give one, SDXL's sdxl_vae.safetensors or the vae folder of {config.name}."
            )
        vae = base
    return {denoiser: table, "vae": _table(vae, "vae", dtype)}


def _table(source: Source, part: str, dtype: torch.dtype) -> Table:
    return source if isinstance(source, Table) else find_table(source, part, dtype=dtype)


def build_part(config: ModelConfig, part: str) -> nn.Module:
    """Build a part of the base on the meta device."""
    with torch.device("meta"):
        if part == "vae":
            return build_vae(config)
        return build_denoiser(config)


def match_part(config: ModelConfig, part: str, module: nn.Module, table: Table) -> dict[str, str]:
    """Match the module's names with the table's. Raises CheckpointError if the table is another part or model."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    same = {name: name for name in shapes}
    if part == "vae":
        schemes = [same, key_mapping.map_vae_names(shapes, config.vae), key_mapping.map_old_vae_names(shapes)]
    elif part == "unet":
        schemes = [same, key_mapping.map_unet_names(shapes, config.unet)]
    else:
        schemes = [same]
    return match_names(table, shapes, schemes)


def load_part(
    config: ModelConfig,
    part: str,
    table: Table,
    *,
    dtype: torch.dtype,
    compute: torch.dtype,
    exact: Exact | None = None,
) -> tuple[nn.Module, str | None]:
    """Load one part of the base from a table; return it and its digest."""
    module = build_part(config, part)
    known = match_part(config, part, module, table)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    if dtype == FP8:
        precision.follow_input_dtype(module)

    def kind(name: str) -> torch.dtype:
        return torch.float32 if exact is not None and exact(f"{part}.{name}", shapes[name]) else compute

    def stays(name: str, own: torch.dtype) -> bool:
        quantised = dtype == FP8 and precision.stored_in_fp8(name, shapes[name])
        return own == (FP8 if quantised else kind(name))

    digest, work = Fingerprint(), precision.allocate_workspace() if dtype == FP8 else None
    for name, tensor in table.read(known, stays):
        tensor = tensor.reshape(shapes[name])
        digest.add(f"{part}.{name}", tensor)
        precision.place_tensor(module, name, tensor, dtype=kind(name), fp8=dtype == FP8, work=work)
    return module.eval().requires_grad_(False), digest.digest()
