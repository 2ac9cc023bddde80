"""TADiSR: text-aware real-world image super-resolution (Hu et al.). One image in, one 4x image and text mask out.

import tadisr
model = tadisr.load()                       # the compact model that ships with the pack
result = tadisr.upscale(model, image)       # image (B, C, h, w) in [0, 1] -> result.image, result.mask
"""

from .config import SCALE, ModelConfig
from .errors import CheckpointError, ConfigError, ImageError, TADiSRError
from .inference.upscale import COMPACT, Upscaled, load, upscale
from .inference.upscale_strips import upscale_in_memory
from .model import Output, TADiSR
from .presets import preset

__version__ = "0.1.0"

__all__ = [
    "COMPACT",
    "SCALE",
    "CheckpointError",
    "ConfigError",
    "ImageError",
    "ModelConfig",
    "Output",
    "TADiSR",
    "TADiSRError",
    "Upscaled",
    "load",
    "preset",
    "upscale",
    "upscale_in_memory",
]
