"""Find text encoders, tokenizers and prompt files in ComfyUI's folders."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ...tadisr import CheckpointError, ConfigError
from ...tadisr.errors import TADiSRError
from ...tadisr.prompt import is_prompt
from ...tadisr.text_encoders import chatglm3, encoder_of
from ...tadisr.text_encoders.chatglm3_weights import Weights, is_encoder, open_weights
from ...tadisr.text_encoders.glm4 import is_glm
from . import folders

NO_ENCODER = "no ChatGLM3 or GLM-4 in models/LLM, models/text_encoders, models/diffusers"
NO_PROMPT = "no prompt file in models/tadisr"
NAME = re.compile(r"\w[\w .,()+-]{0,99}")  # a file's name alone, on any system
SUFFIX = ".safetensors"
LONGEST = 200  # bytes of a name: file systems take 255, with the suffix and that of a file being written
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}


# ---- text encoders --------------------------------------------------------------------------------------------------


def list_roots() -> list[Path]:
    """List models/LLM (other packs register it, ComfyUI does not), models/text_encoders and models/diffusers."""
    registered = folder_paths.folder_names_and_paths
    found = [Path(folder_paths.models_dir) / "LLM"]
    for category in ("LLM", "text_encoders", "diffusers"):
        found += map(Path, folder_paths.get_folder_paths(category) if category in registered else [])
    return [root for root in dict.fromkeys(found) if root.is_dir()]


def list_encoders() -> dict[str, Path]:
    """Find every ChatGLM3 and GLM-4 under the roots by its name there: single files, folders with shards and their index."""
    found: dict[str, Path] = {}
    for root in list_roots():
        for path in sorted(list_candidates(root)):
            if is_text_encoder(path, folders.changed(path)):
                found.setdefault(path.relative_to(root).as_posix(), path)
    return found


def list_candidates(root: Path) -> Iterator[Path]:
    for path in root.rglob(f"*{SUFFIX}"):
        yield path
    for path in root.rglob("*.index*.json"):
        yield path.parent


@functools.lru_cache(maxsize=4096)
def is_text_encoder(path: Path, _when: int) -> bool:
    return is_encoder(path) or is_glm(path)


def encoder_path(name: str) -> Path:
    """Return the encoder behind a name of the list. Raises CheckpointError for one that is not there (any more)."""
    found = list_encoders()
    if name not in found:
        raise CheckpointError(
            f"There is no ChatGLM3 or GLM-4 {name!r} in {', '.join(map(str, list_roots()))}. Put chatglm3-fp16.safetensors "
            "into models/LLM, or the Kolors or CogView4 folder with its text_encoder into models/diffusers."
        )
    return found[name]


def vocabulary_for(source: Path) -> Path:
    """Find the tokenizer beside the encoder, else for a single-file ChatGLM3, which has none, the first that fits.

    Raises CheckpointError where there is none.
    """
    encoder = encoder_of(source)
    try:
        return encoder.find_vocabulary(source, None)
    except CheckpointError:
        if encoder is not chatglm3:
            raise
        weights = open_weights(source)
        for root in list_roots():
            for path in sorted(root.rglob(chatglm3.VOCABULARY)):
                if fits_encoder(path, weights):
                    return path
        raise


def fits_encoder(vocabulary: Path, weights: Weights) -> bool:
    try:
        chatglm3.load_tokenizer(vocabulary, weights)
    except CheckpointError:
        return False
    return True


# ---- prompt files ---------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4096)
def is_prompt_file(path: str, _when: int) -> bool:
    return is_prompt(path)


def holds_prompt(name: str) -> bool:
    """Tell whether a file of models/tadisr is a prompt file; False for a broken one."""
    path = folder_paths.get_full_path(folders.FOLDER, name)
    return path is not None and is_prompt_file(path, folders.changed(path))


def prompt_names() -> list[str]:
    return [name for name in folder_paths.get_filename_list(folders.FOLDER) if holds_prompt(name)]


def prompt_path(name: str) -> Path:
    """Return the file behind a name of the list. Raises CheckpointError for one that is not there (any more)."""
    path = folder_paths.get_full_path(folders.FOLDER, name)
    if path is None:
        places = ", ".join(folder_paths.get_folder_paths(folders.FOLDER))
        raise CheckpointError(f"There is no prompt file {name!r} in {places}. Make one with TADiSR Encode Prompt.")
    return Path(path)


def target_path(name: str) -> Path:
    """Return the file in models/tadisr for a name typed by the user. Raises ConfigError for one that is no name."""
    stem = name.strip().removesuffix(SUFFIX)
    if not NAME.fullmatch(stem) or stem.endswith((".", " ")):
        raise ConfigError(
            f"name is {name!r:.120}: expected a file's name without folders, of letters, digits, spaces and . , ( ) + - _"
        )
    if stem.split(".")[0].strip().upper() in RESERVED:
        raise ConfigError(f"name is {name!r}, which Windows keeps for a device: choose another name.")
    if len(stem.encode()) > LONGEST:
        raise ConfigError(f"name has {len(stem.encode())} bytes, expected {LONGEST} at most: choose a shorter name.")
    return Path(folder_paths.get_folder_paths(folders.FOLDER)[0]) / f"{stem}{SUFFIX}"


def refuse_to_overwrite(path: Path, *, allowed: bool) -> None:
    """Raise TADiSRError unless a file can be written there; a model never makes way for a prompt."""
    if path.exists() and not path.is_file():
        raise TADiSRError(f"{path} is a folder or a device, not a file: choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise TADiSRError(f"{path.parent} cannot be written to: change its permissions.")
    if path.is_file() and not is_prompt(path):
        raise TADiSRError(f"{path} is there already and is no prompt file: choose another name.")
    if path.is_file() and not allowed:
        raise TADiSRError(f"{path} holds another prompt already: choose another name, or turn overwrite on.")
