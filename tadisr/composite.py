"""The text from one image, the rest from another."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import ConfigError, ImageError
from .images import check_aspect, resize_image, split_alpha


def shape_mask(mask: Tensor, *, grow: int = 0, feather: float = 0.0, threshold: float = 0.0) -> Tensor:
    """Prepare a text mask for pasting, (B, 1, H, W) in [0, 1] -> the same.

    threshold: 0 leaves the mask soft, else what reaches it becomes 1 and the rest 0; grow: by so many pixels, or
    shrink if negative; feather: soften the edge, the standard deviation of a Gaussian in pixels.
    """
    if feather < 0 or not 0 <= threshold <= 1:
        raise ConfigError(f"feather is {feather}, expected 0 or more; threshold is {threshold}, expected 0 to 1.")
    if threshold > 0:
        mask = (mask >= threshold).float()
    if grow > 0:
        mask = dilate_mask(mask, grow)
    elif grow < 0:
        mask = 1 - dilate_mask(1 - mask, -grow)
    if feather > 0:
        from kornia.filters import gaussian_blur2d  # slow to import

        side = 2 * math.ceil(3 * feather) + 1
        mask = gaussian_blur2d(mask, (side, side), (feather, feather), border_type="replicate")
    return mask


def dilate_mask(mask: Tensor, pixels: int) -> Tensor:
    """Return the maximum over a square of `pixels` around each pixel."""
    side = 2 * pixels + 1
    tall = F.max_pool2d(mask, (side, 1), stride=1, padding=(pixels, 0))
    return F.max_pool2d(tall, (1, side), stride=1, padding=(0, pixels))


EDITS = ("add", "subtract", "replace")


def edit_mask(mask: Tensor, painted: Tensor, operation: str) -> Tensor:
    """Add, subtract or put in place what was painted by hand: masks (B, 1, H, W), (B or 1, 1, h, w) -> (B, 1, H, W).

    Both in [0, 1]; `painted` may have any size. Raises ConfigError for another operation, ImageError for other batches.
    """
    if operation not in EDITS:
        raise ConfigError(f"operation is {operation!r}, expected one of {', '.join(EDITS)}.")
    if len(painted) not in (1, len(mask)):
        raise ImageError(f"There are {len(painted)} painted masks for {len(mask)} masks: give one, or one for each.")
    painted = painted.to(mask)
    if painted.shape[-2:] != mask.shape[-2:]:
        painted = resize_image(painted, (mask.shape[2], mask.shape[3]))
    painted = painted.clamp(0, 1).expand_as(mask)
    if operation == "add":
        return torch.maximum(mask, painted)
    return torch.minimum(mask, 1 - painted) if operation == "subtract" else painted.clone()


def composite_images(text: Tensor, rest: Tensor, mask: Tensor) -> Tensor:
    """Blend `text` where the mask is 1 and `rest` where it is 0, at the size of the larger image.

    text, rest (B, C, h, w), mask (B, 1, h, w), all of any size and in [0, 1]; a batch of one goes with any batch. An
    alpha that either has is mixed the same way. Raises ImageError for batches or shapes that do not go together.
    """
    counts = {len(text), len(rest), len(mask)} - {1}
    if len(counts) > 1:
        raise ImageError(f"{len(text)} images of text, {len(rest)} others and {len(mask)} masks do not go together.")
    for name, other in (("other image", rest), ("mask", mask)):
        check_aspect(text, other, "image of the text", name)
    size = max((picture.shape[2], picture.shape[3]) for picture in (text, rest))
    sized = [x if (x.shape[2], x.shape[3]) == size else resize_image(x, size) for x in (text, rest, mask)]
    text, rest, mask = (x.expand(max(counts, default=1), -1, -1, -1) for x in sized)
    if text.shape[1] != rest.shape[1]:
        text, rest = add_alpha(text), add_alpha(rest)
    return torch.lerp(rest, text, mask)


def add_alpha(image: Tensor) -> Tensor:
    """Convert to RGBA."""
    colors, alpha = split_alpha(image)
    return torch.cat([colors, torch.ones_like(colors[:, :1]) if alpha is None else alpha], 1)
