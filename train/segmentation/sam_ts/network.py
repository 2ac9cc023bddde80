"""SAM-TS, the text-stroke segmenter of Hi-SAM (Ye et al.): SAM that prompts itself for text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .image_encoder import ImageEncoder
from .mask_decoder import MaskDecoder
from .prompts import ModalAligner, PromptEncoder

MEAN = (123.675, 116.28, 103.53)  # of RGB in 0..255
STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True, kw_only=True)
class SamTSConfig:
    """Widths and depths; the published ones are in VARIANTS."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]
    image: int = 1024  # side of the square it takes
    patch: int = 16
    window: int = 14  # in patches
    channels: int = 256  # of the embedding and the decoder
    hidden: int = 2048  # of the decoder's MLPs
    prompts: int = 12


VARIANTS = {
    "vit_b": SamTSConfig(width=768, depth=12, heads=12, global_blocks=(2, 5, 8, 11)),
    "vit_l": SamTSConfig(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamTSConfig(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
}


@dataclass(frozen=True)
class Prediction:
    """Logits of text stroke, and the IoU with the truth that the network expects of them."""

    low: Tensor  # (B, 1, S / 4, S / 4)
    high: Tensor  # (B, 1, S, S)
    low_iou: Tensor  # (B, 1)
    high_iou: Tensor  # (B, 1)


class SamTS(nn.Module):
    """Parameters are named as in the published checkpoints, key for key."""

    def __init__(self, config: SamTSConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            global_blocks=config.global_blocks,
            image=config.image,
            patch=config.patch,
            window=config.window,
            channels=config.channels,
        )
        self.modal_aligner = ModalAligner(config.channels, prompts=config.prompts)
        self.prompt_encoder = PromptEncoder(config.channels)
        self.mask_decoder = MaskDecoder(config.channels, hidden=config.hidden)

    def forward(self, image: Tensor) -> Prediction:
        """image: (B, 3, S, S) from `prepare`."""
        embedding = self.image_encoder(image)
        prompts = self.modal_aligner(embedding)
        places = self.prompt_encoder.places(embedding.shape[-1])
        return Prediction(*self.mask_decoder(embedding, places, prompts))

    def prepare(self, image: Tensor) -> Tensor:
        """Normalize images (B, 3, h, w) in [0, 255], sides up to S, and pad them right and below to (B, 3, S, S)."""
        side, (height, width) = self.config.image, image.shape[-2:]
        mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (MEAN, STD))
        return nn.functional.pad((image - mean) / std, (0, side - width, 0, side - height))

    def learn_text_only(self) -> None:
        """Freeze SAM's image and prompt encoder; adapters, aligner and mask decoder are trained."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_("Adapter" in name or name.startswith(("modal_aligner.", "mask_decoder.")))
