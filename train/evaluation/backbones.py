"""LPIPS and the Inception features of FID, from weights on disk. Where they are not, that is what the column says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tadisr.errors import ConfigError
from tadisr.file_digest import hash_file

from ..losses import lpips_backbone_file, lpips_distance, make_lpips
from .metrics import Array

Net = Literal["alex", "vgg"]
Range = Literal["signed", "unit"]
MISSING = "backbone missing: "
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # the TTUR network's weights, as torch-fidelity publishes them


@dataclass(frozen=True)
class Missing:
    """A metric that cannot be had, because this file is not there."""

    file: Path

    def __str__(self) -> str:
        return f"{MISSING}{self.file}"


class Lpips:
    """LPIPS 0.1 (Zhang et al., 2018) with its learned weights, on whole images.

    value_range: `signed` feeds [-1, 1], as its authors document; `unit` feeds [0, 1], as the authors of TADiSR do.
    """

    def __init__(self, net: Net, device: torch.device, *, value_range: Range = "signed") -> None:
        end = "" if value_range == "signed" else "-unit"
        self.key = f"lpips-{net}-{hash_file(lpips_backbone_file(net))[:16]}{end}"
        self.network, self.device, self.value_range = make_lpips(net).to(device), device, value_range

    @torch.inference_mode()
    def __call__(self, first: Array, second: Array) -> float:
        one, other = (load_levels(pixels, self.device) / 255 for pixels in (first, second))
        return float(lpips_distance(self.network, one, other, self.value_range))


class Inception:
    """The 2048 pooled features of the Inception that FID was defined by; images are brought to 299x299 by its own
    bilinear resize.
    """

    def __init__(self, device: torch.device) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ConfigError("FID needs the package torch-fidelity: pip install 'tadisr[train]'.") from error
        self.key = f"inception-{hash_file(locate_inception())[:16]}"
        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(locate_inception())
        )
        self.network: nn.Module = network.to(device).eval()
        self.device = device

    @torch.inference_mode()
    def __call__(self, pixels: Array) -> Array:
        return self.network(load_levels(pixels, self.device).to(torch.uint8))[0][0].float().cpu().numpy()


def load_levels(pixels: Array, device: torch.device) -> Tensor:
    """Convert (H, W, 3) uint8 to (1, 3, H, W) float32 in 0 to 255 on a device."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].to(device, torch.float32)


def locate_inception() -> Path:
    """Return the path of torch-fidelity's Inception weights."""
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION


def load_lpips(net: Net, device: torch.device, *, value_range: Range = "signed") -> Lpips | Missing:
    """Load LPIPS, or return what file is missing."""
    file = lpips_backbone_file(net)
    return Lpips(net, device, value_range=value_range) if file.is_file() else Missing(file)


def load_inception(device: torch.device) -> Inception | Missing:
    """Load the Inception of FID, or return what file is missing."""
    file = locate_inception()
    return Inception(device) if file.is_file() else Missing(file)
