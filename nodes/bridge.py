"""Between ComfyUI and the library: pictures, folders, devices, the host's memory manager, progress and interrupt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from server import PromptServer
from torch import Tensor, nn

from ..tadisr import COMPACT, CheckpointError, TADiSR, load
from ..tadisr.pipeline import DTYPES

log = logging.getLogger("tadisr")

Model = io.Custom("TADISR_MODEL")
CATEGORY = "TADiSR"
FOLDER = "tadisr"  # under ComfyUI's models
BUILT_IN = "compact (built in)"


# ---- files ----------------------------------------------------------------------------------------------------------


def register_model_folder() -> None:
    """`models/tadisr`, and whatever the user's extra_model_paths.yaml adds to it."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER), is_default=True)
    folders, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (folders, {".safetensors"})


def model_names() -> list[str]:
    return [BUILT_IN, *folder_paths.get_filename_list(FOLDER)]


def model_path(name: str) -> Path:
    """The file behind a name of the list. Raises CheckpointError for one that is not there (any more)."""
    if name == BUILT_IN:
        return COMPACT
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise CheckpointError(f"There is no model {name!r} in {folders}. Put it there, or choose {BUILT_IN!r}.")
    return Path(path)


# ---- models ---------------------------------------------------------------------------------------------------------


class Held(nn.Module):
    """A plain module around the model: ModelPatcher sets `.device`, which on ours is read-only."""

    def __init__(self, model: TADiSR) -> None:
        super().__init__()
        self.network = model


def load_patcher(path: Path, dtype: str) -> ModelPatcher:
    """The model in the host's hands. Raises CheckpointError."""
    device = mm.get_torch_device()
    if dtype not in (*DTYPES, "auto"):
        raise CheckpointError(f"dtype is {dtype!r}, expected auto, {', '.join(DTYPES)}.")
    kind = DTYPES.get(dtype, torch.float16 if mm.should_use_fp16(device) else torch.float32)
    model = load(path, device=mm.unet_offload_device(), dtype=kind)
    return ModelPatcher(Held(model), load_device=device, offload_device=mm.unet_offload_device())


def bring_in(patcher: ModelPatcher, *, tile: int, batch: int) -> tuple[TADiSR, torch.device]:
    """The model on its device, the host having made room for it and for a batch of tiles."""
    model: TADiSR = patcher.model.network  # pyright: ignore[reportAssignmentType]
    mm.load_models_gpu([patcher], memory_required=memory_required(model, tile, batch), force_full_load=True)
    return model, patcher.load_device


def memory_required(model: TADiSR, tile: int, batch: int) -> int:
    """Bytes of activations: about a dozen maps of the decoder's widest level at the picture's size."""
    config = model.config
    width = config.vae["block_out_channels"][0] / config.patch**2
    return int(12 * width * batch * tile**2 * model.dtype.itemsize)


# ---- pictures -------------------------------------------------------------------------------------------------------


def from_comfy(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) -> (B, C, H, W)."""
    return image.movedim(-1, 1)


def to_comfy(image: Tensor) -> Tensor:
    """(B, C, H, W) -> IMAGE (B, H, W, C), where the host wants its pictures."""
    return image.movedim(1, -1).contiguous().to(mm.intermediate_device())


def to_mask(mask: Tensor) -> Tensor:
    """(B, 1, H, W) -> MASK (B, H, W)."""
    return mask[:, 0].to(mm.intermediate_device())


# ---- the running node -----------------------------------------------------------------------------------------------


def progress(node_id: str) -> Callable[[int, int], None]:
    """A callback that moves the node's bar and lets the host interrupt."""
    bar = comfy.utils.ProgressBar(1, node_id=node_id)

    def update(done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total)

    return update


def say(node_id: str) -> Callable[[str], None]:
    """One sentence to the log and onto the node."""

    def tell(text: str) -> None:
        log.warning(text)
        PromptServer.instance.send_progress_text(text, node_id)

    return tell
