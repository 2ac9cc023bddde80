"""The bases' text encoders, ChatGLM3 of Kolors and GLM-4 of CogView4: which one a path holds, and its prompt, the same way.

The prompt is encoded once and kept (`tadisr.prompt`); nothing here runs when a picture is upscaled.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from .cogview4 import glm
from .kolors import chatglm


def encoder_of(path: str | Path) -> ModuleType:
    """The module that encodes with the text encoder in this file or folder.

    Both have TEXT, the prompt with which the base's adapters are trained; HALF, its number type on a GPU; and
    encode_prompt, find_vocabulary and record_of.
    """
    return glm if glm.is_glm(path) else chatglm
