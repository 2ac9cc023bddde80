"""Match an edited latent to its source images (subset, repeat, resize, resample, flip)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError

COARSE = 16  # rows and columns at which two latents are compared
SAME = 0.3  # correlation from which on a latent still shows its image
SURE = 0.1  # by how much another image, or a turned one, has to be more alike than the one expected


def match_latent(made: Tensor, latent: Tensor) -> list[int] | None:
    """Match each image of `latent` (n, c, h', w') to one of `made` (m, c, h, w); None if any matches none.

    Expected is the order they were made in, over and over. Raises ImageError when one was flipped or turned.
    """
    here, there = binarize_latent(latent), binarize_latent(made)
    alike = correlate_latents(here, there)  # (n, m)
    expected = torch.arange(len(latent)) % len(made)
    as_expected = alike.gather(1, expected[:, None])[:, 0]
    best, rows = alike.max(1)
    rows = torch.where(best > as_expected + SURE, rows, expected)
    best = alike.gather(1, rows[:, None])[:, 0]
    turns = (torch.rot90(side, k, (2, 3)) for side in (there, there.flip(3)) for k in range(4))
    turned = torch.stack([correlate_latents(here, turn).amax(1) for turn in turns]).amax(0)
    if (turned > torch.maximum(best, torch.tensor(SAME)) + SURE).any():
        raise ImageError(
            "The latent was flipped or turned on its way, the image it was made from was not: flip or turn the image "
            "before TADiSR Encode instead."
        )
    return rows.tolist() if bool((best > SAME).all()) else None


def binarize_latent(latent: Tensor) -> Tensor:
    """Reduce (B, c, h, w) to (B, c, 16, 16): the signs of each channel around its mean."""
    small = F.adaptive_avg_pool2d(latent.float().cpu(), COARSE)
    return small - small.mean((2, 3), keepdim=True)


def correlate_latents(a: Tensor, b: Tensor) -> Tensor:
    """Correlate (n, c, 16, 16) with (m, c, 16, 16) -> (n, m) in -1..1; two flat ones count as equal."""
    a, b = a.flatten(1), b.flatten(1)
    flat = (a.abs().amax(1) < 1e-4)[:, None] & (b.abs().amax(1) < 1e-4)
    return torch.where(flat, 1.0, F.normalize(a, dim=1) @ F.normalize(b, dim=1).T)
