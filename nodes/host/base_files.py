"""Find Kolors' U-Net, its VAE and whole base folders in ComfyUI's folders, detected by their tensors."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import folder_paths

from ...tadisr import CheckpointError
from ...tadisr.checkpoints.detect import COGVIEW4_VAE, EARLY, KOLORS, NEWER, TRANSFORMER, VAE, describe_table
from ...tadisr.checkpoints.tensor_index import Table, read_table
from . import folders

NO_BASE = "none"
NO_UNET = "no Kolors in models/diffusion_models, models/unet, models/diffusers"
BESIDE = "beside the U-Net"
FOLDERS = "diffusers/"  # in front of a folder's name in the list; files end in .safetensors


def base_names() -> list[str]:
    """List the folders in models/diffusers that hold a denoiser and a VAE, as an adapter's base does."""
    found = []
    for folder in map(Path, folder_paths.get_folder_paths("diffusers")):
        if folder.is_dir():
            found += [path.name for path in folder.iterdir() if is_base(path)]
    return [NO_BASE, *sorted(set(found))]


def is_base(folder: Path) -> bool:
    """Tell whether a folder is a base: Kolors keeps its denoiser in unet, CogView4 in transformer."""
    parts = {
        part for part in ("vae", "unet", "transformer") if os.path.isdir(folder / part)
    }  # False where it may not look
    return "vae" in parts and len(parts) > 1


def base_path(name: str) -> Path | None:
    """Return the folder behind a name of the list; None for none. Raises CheckpointError for one that is not there."""
    if name == NO_BASE:
        return None
    folders = folder_paths.get_folder_paths("diffusers")
    if name in base_names():
        return next(Path(folder) / name for folder in folders if is_base(Path(folder) / name))
    raise CheckpointError(
        f"There is no base {name!r} with unet/ (or transformer/) and vae/ in {', '.join(folders)}. Put its folder there."
    )


@functools.lru_cache(maxsize=4096)
def detect_kind(path: str, _when: int) -> str | None:
    """Detect the kind of a file, whole or incomplete, from its header; None for an unknown header."""
    try:
        return describe_table(read_table(path, whole=False))
    except CheckpointError:
        return None


def list_kinds(category: str, kinds: tuple[str, ...]) -> list[str]:
    """List the files of a category that are of these kinds."""
    found = []
    for name in folder_paths.get_filename_list(category):
        path = folder_paths.get_full_path(category, name)
        if path is not None and name.endswith(".safetensors") and detect_kind(path, folders.changed(path)) in kinds:
            found.append(name)
    return found


def unet_names() -> list[str]:
    """List folders in models/diffusers, then files; an early file without encoder_hid_proj is refused on loading."""
    folders = [FOLDERS + name for name in base_names() if name != NO_BASE]
    return [*folders, *list_kinds("diffusion_models", (KOLORS, EARLY))] or [NO_UNET]


def vae_names() -> list[str]:
    return [BESIDE, *list_kinds("vae", (VAE,))]


def unet_path(name: str) -> Path:
    """Return the folder or file behind a name of the list. Raises CheckpointError for one that is not there (any more)."""
    if name.startswith(FOLDERS):
        path = base_path(name.removeprefix(FOLDERS))
        assert path is not None
        return path
    path = folder_paths.get_full_path("diffusion_models", name)
    if path is None:
        places = ", ".join(folder_paths.get_folder_paths("diffusion_models"))
        raise CheckpointError(
            f"There is no Kolors U-Net {name!r} in {places}. Put the file there, or the folder of Kwai-Kolors/Kolors-diffusers "
            "into models/diffusers."
        )
    return Path(path)


def vae_path(name: str, unet: Path) -> Path:
    """Return the VAE behind a name of the list, or the one that comes with the U-Net. Raises CheckpointError."""
    if name == BESIDE:
        if unet.is_dir():
            return unet
        raise CheckpointError(
            f"{unet.name} is a U-Net alone: choose a VAE too, SDXL's sdxl_vae.safetensors in models/vae, or connect one."
        )
    path = folder_paths.get_full_path("vae", name)
    if path is None:
        places = ", ".join(folder_paths.get_folder_paths("vae"))
        raise CheckpointError(f"There is no VAE {name!r} in {places}. Put SDXL's sdxl_vae.safetensors there.")
    return Path(path)


def read_times(path: Path) -> tuple[int, ...]:
    """Return when a file, or every weights file of a folder, was changed."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return tuple(folders.changed(file) for file in files)


def check_tables(tables: dict[str, Table]) -> None:
    """Raise CheckpointError for another model, before an adapter asks for it."""
    kinds = {"unet": KOLORS, "transformer": TRANSFORMER, "vae": VAE if "unet" in tables else COGVIEW4_VAE}
    for part in tables:
        expected, found = kinds[part], describe_table(tables[part])
        if found == EARLY:
            raise CheckpointError(f"{tables[part].where} is {EARLY}: {NEWER}")
        if found != expected:
            raise CheckpointError(f"{tables[part].where} is {found}, expected {expected}: choose the file of that.")
