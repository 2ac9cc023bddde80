"""The bases' text encoders, ChatGLM3 of Kolors and GLM-4 of CogView4: which one a path holds, and its prompt, the same way.

The prompt is encoded once and kept (`tadisr.prompt`); nothing here runs when an image is upscaled.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ..checkpoints.tensor_index import find_part_folder
from . import chatglm3, glm4


def encoder_of(path: str | Path) -> ModuleType:
    """Return the module that encodes with the text encoder in this file or folder.

    A CogView4 folder without its text encoder has CogView4's, and so CogView4's sentence; anything unknown has ChatGLM3's.
    Both have TEXT, the prompt with which the base's adapters are trained; HALF, its dtype on a GPU; and
    encode_prompt, find_vocabulary and record_of.
    """
    folder = glm4.encoder_folder(Path(path))
    without = find_part_folder(folder, "transformer") != folder  # the denoiser is there, and no text_encoder beside it
    return glm4 if glm4.is_glm(folder) or without else chatglm3
