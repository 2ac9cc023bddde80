"""The entry points that the hostile suite calls, in one place."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from tiny import tiny_kolors_config
from torch import Tensor

from tadisr import preset
from tadisr.checkpoints.adapter import read_header
from tadisr.checkpoints.detect import describe_table
from tadisr.checkpoints.release_import import Imported
from tadisr.checkpoints.release_import import read_release as read_pickle
from tadisr.checkpoints.tensor_index import read_table
from tadisr.config import ModelConfig
from tadisr.errors import CheckpointError
from tadisr.images import read_image as read
from tadisr.prompt import is_prompt, read_prompt
from tadisr.text_encoders.chatglm3_weights import is_encoder
from tadisr.text_encoders.glm4 import is_glm

__all__ = ["list_file", "read_image", "read_prompt", "read_release", "read_settings", "tiny_release"]


def list_file(path: Path) -> None:
    """Ask a file all that the nodes' lists ask; a CheckpointError is an answer there."""
    is_prompt(path), is_encoder(path), is_glm(path)
    for ask in (read_header, lambda one: describe_table(read_table(one, whole=False))):
        with contextlib.suppress(CheckpointError):
            ask(path)


def read_image(path: Path) -> Tensor:
    return read(path)


def tiny_release() -> ModelConfig:
    """The Kolors release's config at small widths."""
    real, tiny = preset("kolors-release"), tiny_kolors_config()
    decoder = dataclasses.replace(real.decoder, text_channels=tiny.decoder.text_channels)
    return dataclasses.replace(real, unet=tiny.unet, vae=tiny.vae, prompt=tiny.prompt, decoder=decoder, latent="mode")


def read_release(path: Path) -> Imported:
    return read_pickle(path, config=tiny_release())


def read_settings(path: Path) -> str:
    """Read a training or a synthesis config, and the network it describes."""
    from train import config as settings
    from train.synthesis import config as synthesis

    if "synthesis" in path.name:
        return synthesis.read_config(path).out
    config = settings.read_config(path)
    model: Any = settings.build_model_config(config.model)
    return model.name
