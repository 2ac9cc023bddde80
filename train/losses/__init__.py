"""The training objective and the losses it is made of."""

from ..config import LossConfig
from .objective import (
    Objective,
    dice_loss,
    focal_loss,
    grid_loss,
    lpips_backbone_file,
    lpips_distance,
    make_lpips,
    modified_focal,
)

__all__ = [
    "LossConfig",
    "Objective",
    "dice_loss",
    "focal_loss",
    "grid_loss",
    "lpips_backbone_file",
    "lpips_distance",
    "make_lpips",
    "modified_focal",
]
