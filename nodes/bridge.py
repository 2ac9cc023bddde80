"""Between ComfyUI and the library: pictures, folders, devices, the host's memory manager, progress and interrupt."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_management as mm
import comfy.utils
import folder_paths
from comfy_api.latest import io
from server import PromptServer
from torch import Tensor

from ..tadisr import COMPACT, CheckpointError, ImageError, TADiSR
from ..tadisr.adapter import read_header
from ..tadisr.image import to_pil
from ..tadisr.kolors.base import find_base
from ..tadisr.ocr import ENGINES
from ..tadisr.stages import Source
from .memory import Base, Loaded, load_alone, number_types

log = logging.getLogger("tadisr")
InputT = TypeVar("InputT", bound=io.Input)

Model = io.Custom("TADISR_MODEL")
FrozenBase = io.Custom("TADISR_BASE")
Prompt = io.Custom("TADISR_PROMPT")
Attention = io.Custom("TADISR_ATTENTION")
Tiles = io.Custom("TADISR_TILING")
CATEGORY = "TADiSR"
STAGES = "TADiSR/stages"
TEXT = "TADiSR/text"
OURS = "tadisr"  # under this key a LATENT carries our `stages.Source`
FOLDER = "tadisr"  # under ComfyUI's models
BUILT_IN = "compact (built in)"


# ---- schema ---------------------------------------------------------------------------------------------------------


def aliases(*names: str) -> dict[str, Any]:
    """Other words by which a node is found; hosts before 0.4 do not know of them."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return {"search_aliases": list(names)} if "search_aliases" in known else {}


def folded(shown: InputT) -> InputT:
    """An input that the page folds away until the advanced ones are asked for."""
    shown.extra_dict["advanced"] = True
    return shown


# ---- files ----------------------------------------------------------------------------------------------------------


def changed(path: str | Path) -> int:
    """When, for caches and fingerprints; 0 for a file that has gone meanwhile."""
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


def register_model_folder() -> None:
    """`models/tadisr`, and whatever the user's extra_model_paths.yaml adds to it."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER), is_default=True)
    folders, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (folders, {".safetensors"})


def model_names() -> list[str]:
    """Models only: prompt files lie in the same folder. A broken file is listed, and told of when it is loaded."""
    from .prompt_files import holds_prompt  # which imports this module

    return [BUILT_IN, *(name for name in folder_paths.get_filename_list(FOLDER) if not holds_prompt(name))]


def model_path(name: str) -> Path:
    """The file behind a name of the list. Raises CheckpointError for one that is not there (any more)."""
    if name == BUILT_IN:
        return COMPACT
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        folders = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise CheckpointError(f"There is no model {name!r} in {folders}. Put it there, or choose {BUILT_IN!r}.")
    return Path(path)


def ocr_models() -> Path:
    """`models/ppocr`, where paddleocr's model folders may lie."""
    return Path(folder_paths.models_dir) / "ppocr"


NO_BASE = "none"


def base_names() -> list[str]:
    """The folders in models/diffusers that hold a denoiser and a VAE, as an adapter's base does."""
    found = []
    for folder in map(Path, folder_paths.get_folder_paths("diffusers")):
        if folder.is_dir():
            found += [path.name for path in folder.iterdir() if is_base(path)]
    return [NO_BASE, *sorted(set(found))]


def is_base(folder: Path) -> bool:
    """Kolors keeps its denoiser in unet, CogView4 in transformer."""
    return (folder / "vae").is_dir() and any((folder / part).is_dir() for part in ("unet", "transformer"))


def base_path(name: str) -> Path | None:
    """The folder behind a name of the list; None for none. Raises CheckpointError for one that is not there."""
    if name == NO_BASE:
        return None
    folders = folder_paths.get_folder_paths("diffusers")
    if name in base_names():
        return next(Path(folder) / name for folder in folders if is_base(Path(folder) / name))
    raise CheckpointError(
        f"There is no base {name!r} with unet/ (or transformer/) and vae/ in {', '.join(folders)}. Put its folder there."
    )


# ---- models ---------------------------------------------------------------------------------------------------------


def load_model(path: Path, dtype: str, base: Path | None = None) -> Loaded:
    """A model in the host's hands, an adapter on its base. Raises CheckpointError."""
    config = read_header(path).config
    kind, compute = number_types(dtype, wide=config.lora is not None)
    if config.lora is None:
        if base is not None:
            raise CheckpointError(f"{path} stands alone, it is no adapter: leave out the base {base}.")
        return load_alone(path, kind)
    tables = find_base(base, config, dtype=kind)
    return Base(tables[config.denoiser], tables["vae"], kind, compute).with_adapter(path)


WHOLE = "The picture as a whole is too large for this GPU's memory: use Upscale with TADiSR, which works in tiles."


@contextmanager
def in_memory(model: Loaded, stage: str, *, pixels: int, guided: bool = False, advice: str = WHOLE) -> Iterator[TADiSR]:
    """The model, what a stage needs of it on its device: encode, denoise, decode, or all.

    Raises ImageError with the advice when memory does not suffice for what is done in it.
    """
    try:
        yield model.bring_in(stage, pixels=pixels, guided=guided)
    except mm.OOM_EXCEPTION as error:
        mm.soft_empty_cache()
        raise ImageError(advice) from error


# ---- latents --------------------------------------------------------------------------------------------------------


def source_of(latent: dict[str, Any]) -> Source | None:
    """What one of our latents carries along; None for a latent from elsewhere."""
    return latent.get(OURS)


def pixels_of(model: Loaded, latent: dict[str, Any]) -> int:
    """Of one picture of the latent."""
    height, width = latent["samples"].shape[-2:]
    return height * width * model.network.config.latent_factor**2


def tile_input() -> io.Int.Input:
    return io.Int.Input(
        "tile", default=768, min=128, max=8192, step=64,
        tooltip="Side of a tile in pixels of the 4x picture. Smaller needs less memory. "
        "Halved by itself when memory runs out.",
    )  # fmt: skip


def overlap_input() -> io.Int.Input:
    return io.Int.Input(
        "overlap", default=256, min=0, max=4096, step=16,
        tooltip="Pixels of the 4x picture that two tiles share; they are blended there. At most half a tile: lower "
        "it with the tile.",
    )  # fmt: skip


def guide_input() -> io.Mask.Input:
    return io.Mask.Input(
        "mask", optional=True,
        tooltip="A text mask that you have edited, of any size: white where text is to be, black where none is. The text "
        "decoder is steered to it, and with it the picture.",
    )  # fmt: skip


def tile_batch_input(name: str) -> io.Int.Input:
    return io.Int.Input(
        name, default=1, min=1, max=64,
        tooltip="Tiles run at once. More is faster on a GPU with room for them.",
    )  # fmt: skip


def engine_input() -> io.Combo.Input:
    return io.Combo.Input(
        "engine",
        options=["auto", *ENGINES],
        default="auto",
        tooltip="auto: paddleocr where it is installed with models (in models/ppocr), else rapidocr, which brings its own.",
    )


# ---- pictures -------------------------------------------------------------------------------------------------------


def from_comfy(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) -> (B, C, H, W)."""
    return image.movedim(-1, 1)


def to_comfy(image: Tensor) -> Tensor:
    """(B, C, H, W) -> IMAGE (B, H, W, C)."""
    return to_host(image.movedim(1, -1).contiguous())


def to_host(tensor: Tensor) -> Tensor:
    """Where the host wants what goes between nodes."""
    return tensor.to(mm.intermediate_device())


def from_mask(mask: Tensor) -> Tensor:
    """MASK (B, H, W), or (H, W) as some nodes give it -> (B, 1, H, W)."""
    return mask.reshape(-1, 1, *mask.shape[-2:])


def to_mask(mask: Tensor) -> Tensor:
    """(B, 1, H, W) -> MASK (B, H, W)."""
    return to_host(mask[:, 0])


# ---- the running node -----------------------------------------------------------------------------------------------


class Progress:
    """A callback that moves the node's bar, shows the last preview it was given, and lets the host interrupt."""

    def __init__(self, node_id: str) -> None:
        self.bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self.picture: Tensor | None = None

    def __call__(self, done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        shown = None
        if self.picture is not None and done < total:  # one in the last step would stay over the result
            shown = ("JPEG", to_pil(self.picture).convert("RGB"), max(self.picture.shape[-2:]))
        self.bar.update_absolute(done, total, shown)

    def preview(self, picture: Tensor) -> None:
        """(1, 3, H, W) in [0, 1], for the next step."""
        self.picture = picture


def say(node_id: str) -> Callable[[str], None]:
    """One sentence to the log and onto the node."""

    def tell(text: str) -> None:
        log.warning(text)
        PromptServer.instance.send_progress_text(text, node_id)

    return tell
