"""A loaded model as UPSCALE_MODEL, for ComfyUI's own node and other packs' tiled upscalers."""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...tadisr import SCALE, upscale
from ...tadisr.inference.tiling import Tiling
from .model_management import ADDED, Loaded


class UpscaleModel:
    """The interface of a spandrel ImageModelDescriptor: (B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w) on the same device.

    The caller cuts the tiles; each is run whole. ComfyUI's memory manager moves the weights, so that `to` does nothing.
    """

    scale, input_channels, output_channels = SCALE, 3, 3

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded

    @property
    def model(self) -> nn.Module:
        return self.loaded.network

    @property
    def patcher(self) -> ModelPatcher:
        """Return the smallest part, which newer ComfyUIs load before they call; each call brings in all of them."""
        return self.loaded.patchers[ADDED]

    @property
    def device(self) -> torch.device:
        return self.loaded.load_device

    def to(self, *_: Any, **__: Any) -> UpscaleModel:
        return self

    def eval(self) -> UpscaleModel:
        return self

    def __call__(self, image: Tensor) -> Tensor:
        margin = Tiling.margin
        side = SCALE * (max(image.shape[-2:]) + 2 * margin)
        network = self.loaded.bring_in("all", pixels=side**2)
        tiling = Tiling(tile=max(16 * SCALE, side), overlap=0)
        result = upscale(network, image.float(), tiling=tiling, device=self.loaded.load_device)
        return result.image.to(image)
