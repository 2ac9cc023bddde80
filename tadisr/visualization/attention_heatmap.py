"""Looking at the text attention: the responses of chosen layers and heads as one map, and its colours over an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..images import resize_image, split_alpha
from ..inference.staged import Attention

LAYERS = ("all", "down", "mid", "up")
NORMALIZE = ("picture", "batch", "off")
COLOR_MAPS = ("turbo", "viridis", "plasma", "grey")


def parse_heads(text: str) -> list[int] | None:
    """Parse head numbers: "all" -> None; "0, 2, 5-7" -> [0, 2, 5, 6, 7]. Raises ConfigError."""
    if text.strip().lower() in ("all", ""):
        return None
    heads: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f'heads is {text!r}, expected "all" or numbers such as "0, 2, 5-7".')
        heads.update(range(int(first), int(last or first) + 1))
    return sorted(heads)


def heat_map(attention: Attention, *, layers: str = "all", heads: str = "all", normalize: str = "picture") -> Tensor:
    """Average the responses of the chosen layers and heads to (B, 1, H, W), the image's size.

    layers: all of the U-Net, or those of its down, mid or up blocks. heads: "all", or numbers such as "0, 2-4"; a
    layer that has none of them is left out. normalize: to [0, 1] by each image's own least and greatest response,
    by the batch's, or off: the responses as they are. Raises ConfigError when nothing is chosen.
    """
    if layers not in LAYERS or normalize not in NORMALIZE:
        raise ConfigError(f"layers is one of {', '.join(LAYERS)}, normalize one of {', '.join(NORMALIZE)}.")
    chosen = parse_heads(heads)
    maps = []
    for name, response in zip(attention.layers, attention.responses, strict=True):
        if layers not in ("all", name.split("_")[0]):
            continue
        rows = [head for head in chosen if head < response.shape[1]] if chosen is not None else slice(None)
        if rows:
            mean = response[:, rows].mean(1, keepdim=True)  # (B, 1, h', w')
            maps.append(F.interpolate(mean, size=attention.padded, mode="bilinear", align_corners=False))
    if not maps:
        raise ConfigError(
            f"No layer of {layers!r} has a head of {heads!r}: this model has {describe_layers(attention)}."
        )
    heat = torch.stack(maps).mean(0)[..., : attention.size[0], : attention.size[1]]
    if normalize == "off":
        return heat
    over = (1, 2, 3) if normalize == "picture" else (0, 1, 2, 3)
    low, high = heat.amin(over, keepdim=True), heat.amax(over, keepdim=True)
    return (heat - low) / (high - low).clamp_min(1e-12)


def describe_layers(attention: Attention) -> str:
    counts: dict[str, int] = {}
    for name in attention.layers:
        counts[name.split("_")[0]] = counts.get(name.split("_")[0], 0) + 1
    blocks = ", ".join(f"{count} layers {block}" for block, count in counts.items())
    return f"{blocks}, at most {max(len(r[0]) for r in attention.responses)} heads" if counts else "no text attention"


def colorize_heat(heat: Tensor, color_map: str) -> Tensor:
    """Map (B, 1, H, W) in [0, 1] to colours (B, 3, H, W). Raises ConfigError for an unknown colour map."""
    if color_map not in COLOR_MAPS:
        raise ConfigError(f"The colour map is {color_map!r}, expected one of {', '.join(COLOR_MAPS)}.")
    if color_map == "grey":
        return heat.clamp(0, 1).expand(-1, 3, -1, -1)
    from kornia.color import ApplyColorMap, ColorMap  # slow to import, and only this needs it

    return ApplyColorMap(ColorMap(color_map, num_colors=256))(heat.clamp(0, 1))


def overlay_heat(heat: Tensor, image: Tensor, color_map: str, *, opacity: float = 0.6) -> Tensor:
    """Lay the heat's colours over an image: heat (B, 1, H, W), image (B or 1, C, h, w) of any size -> (B, 3, h, w).

    Raises ImageError for another number of images.
    """
    if len(image) not in (1, len(heat)):
        raise ImageError(f"There are {len(image)} images for {len(heat)} heat maps: give one, or one for each.")
    colors = resize_image(colorize_heat(heat, color_map), (image.shape[2], image.shape[3]))
    return torch.lerp(split_alpha(image)[0].expand(len(heat), -1, -1, -1), colors, opacity)
