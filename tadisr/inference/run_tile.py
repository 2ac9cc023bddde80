"""Run the network on one batch of tiles, and check what goes in and comes out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SCALE
from ..errors import ConfigError, ImageError, ResultError
from ..images.resample import Span, output_size, pad_to_multiple, resize_image, shrink_image
from ..model import TADiSR
from ..model.certainty import certainty_map, keep_sure_detail
from .tiling import Tiling


def run_tile(
    model: TADiSR,
    tile: Tensor,
    device: torch.device,
    guide: Tensor | None = None,
    detail: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the network on a batch of upscaled tiles (n, 3, H, W) in [0, 1] of any size.

    Returns images (n, 3, H, W) and maps (n, 1 or 2, H, W), all in [0, 1]: the text mask, and the certainty where the
    model gives one.
    """
    height, width = tile.shape[-2:]
    multiple = model.config.multiple
    padded = pad_to_multiple(tile, multiple).to(device)
    output = model(padded, None if guide is None else pad_to_multiple(guide, multiple).to(device))
    picture, maps = finish_tile(model, output.image, output.mask_logits, output.log_variance, padded, detail)
    return picture[..., :height, :width], maps[..., :height, :width]


def finish_tile(
    model: TADiSR,
    image: Tensor,
    mask_logits: Tensor | None,
    log_variance: Tensor | None,
    upscaled: Tensor | None,
    detail: float | None,
) -> tuple[Tensor, Tensor]:
    """Turn what the network gives into an image (n, 3, H, W) and maps (n, 1 or 2, H, W), float32 in [0, 1].

    detail: as `upscale` takes it. Raises ResultError for NaN and infinite values.
    """
    require_finite(model, image, mask_logits, log_variance)
    maps = [torch.zeros_like(image[:, :1]).float() if mask_logits is None else mask_logits.float().sigmoid()]
    trunk = model.config.decoder.trunk
    if trunk is not None and log_variance is not None and upscaled is not None:
        image = keep_sure_detail(image, upscaled, log_variance, trunk.detail if detail is None else detail)
        maps.append(certainty_map(log_variance))
    return image.float().clamp_(0, 1), torch.cat(maps, 1)


def require_finite(model: TADiSR, *results: Tensor | None) -> None:
    """Raise ResultError for NaN or infinite values: clamped, they would be a black image."""
    if all(bool(result.isfinite().all()) for result in results if result is not None):
        return
    kind = str(model.dtype).removeprefix("torch.")
    advice = (
        "its weights are damaged, download or copy the file again"
        if model.dtype == torch.float32
        else "load it in fp32, or bf16 where the GPU has it; if that gives the same, its weights are damaged"
    )
    of_file = "" if model.file is None else f" of {model.file}"
    raise ResultError(f"The {model.config.name} model{of_file} gave NaN or infinite values in {kind}: {advice}.")


@torch.inference_mode()
def coarse_text(model: TADiSR, colors: Tensor, tiling: Tiling, device: torch.device) -> Tensor:
    """Compute the text masks (B, 1, h', w') of images (B, 3, h, w) downscaled to fit one tile, a first pass."""
    factor = min(1.0, tiling.on_lr[0] / max(colors.shape[-2:]))
    size = output_size(colors.shape[2], colors.shape[3], factor)
    small = resize_image(shrink_image(colors, size), (size[0] * SCALE, size[1] * SCALE))
    return torch.cat([run_tile(model, one, device)[1][:, :1].cpu() for one in small.split(1)])


def cut_enlarged(whole: Tensor, rows: Span, columns: Span) -> Tensor:
    """Cut a window of (C, H, W), whose border is repeated beyond it."""
    height, width = whole.shape[-2:]
    piece = whole[:, max(0, rows[0]) : rows[1], max(0, columns[0]) : columns[1]]
    margins = (max(0, -columns[0]), max(0, columns[1] - width), max(0, -rows[0]), max(0, rows[1] - height))
    return F.pad(piece[None], margins, mode="replicate")[0]


def check_image(image: Tensor, scale: float) -> None:
    """Check an image and a scale for what no upscaler could take. Raises ImageError, ConfigError."""
    if image.ndim != 4 or image.shape[1] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ImageError(
            f"An image of shape {tuple(image.shape)} cannot be upscaled: expected (B, 1 to 4, h, w), not empty."
        )
    if image.dtype.is_floating_point and not all(torch.isfinite(end) for end in torch.aminmax(image)):
        raise ImageError("The image has NaN or infinite values: the node before this one went wrong.")
    if not 1 <= scale <= SCALE:
        raise ConfigError(f"scale is {scale}, expected 1 to {SCALE}.")


def check_share(name: str, value: float | None) -> None:
    """Raise ConfigError for a value outside 0 to 1; None passes."""
    if value is not None and not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}, expected 0 to 1.")


def check_guide(guide: Tensor, batch: int) -> Tensor:
    """Check an edited mask (B or 1, 1, H, W) for so many images, and expand it to (batch, 1, H, W) on the CPU. Raises
    ImageError.
    """
    if len(guide) not in (1, batch) or 0 in guide.shape:
        raise ImageError(f"There are {len(guide)} masks for {batch} images: give one, or one for each, not empty.")
    if not torch.isfinite(guide).all():
        raise ImageError("The mask has NaN or infinite values: the node before this one went wrong.")
    return guide.float().cpu().clamp(0, 1).expand(batch, -1, -1, -1)
