"""The training objective and the losses it is made of."""

from ..config import LossConfig
from .objective import (
    Objective,
    dice,
    focal,
    grid,
    lpips_backbone_file,
    lpips_distance,
    make_lpips,
    modified_focal,
)

__all__ = [
    "LossConfig",
    "Objective",
    "dice",
    "focal",
    "grid",
    "lpips_backbone_file",
    "lpips_distance",
    "make_lpips",
    "modified_focal",
]
