"""The training objective, Eq. 7-9: l_tot = l_img + l_seg, every term with its own weight."""

from __future__ import annotations

import warnings
from pathlib import Path

import kornia
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from tadisr.config import SCALE
from tadisr.errors import ConfigError

from ..config import LossConfig


def balanced_mse(image: Tensor, target: Tensor, upscaled: Tensor | None, balance: float) -> Tensor:
    """Compute the mean squared error, each image weighted by `balance / (balance + MSE of its upscaled input)`; 0:
    unweighted.
    """
    if not balance or upscaled is None:
        return F.mse_loss(image, target)
    weight = balance / (balance + (upscaled - target).square().mean((1, 2, 3)))
    return (weight * (image - target).square().mean((1, 2, 3))).mean()


def certainty_loss(image: Tensor, target: Tensor, log_variance: Tensor) -> Tensor:
    """Compute the negative log-likelihood of the image's error under a Gaussian of the predicted variance, up to a constant.

    The error is the mean over colours and 5 x 5 pixels; no gradient reaches the image.
    """
    error = F.avg_pool2d((image.detach() - target).square().mean(1, keepdim=True), 5, stride=1, padding=2)
    return (error * (-log_variance).exp() + log_variance).mean()


def modified_focal(image: Tensor, target: Tensor, mask: Tensor | None, target_mask: Tensor, gamma: float) -> Tensor:
    """Compute l_mf of Eq. 8: the squared Sobel difference, weighted by the mask's error at each pixel.

    Images (B, 3, H, W), masks (B, 1, H, W), all in [0, 1] -> scalar. The kernel is the plain 1-2-1 Sobel pair on a
    replicated border, as in the authors' code and both public reimplementations; kornia's default divides it by 8, which
    makes this term 64 times smaller. Without a predicted mask (the ablation "w/o JSD") every pixel has weight 1.
    """
    edges = kornia.filters.spatial_gradient(image - target, normalized=False)  # (B, 3, 2, H, W): Sobel is linear
    if mask is None:
        return edges.square().mean()
    wrong = 1 - mask * target_mask - (1 - mask) * (1 - target_mask)
    return (wrong.pow(gamma).unsqueeze(2) * edges.square()).mean()


def grid_loss(image: Tensor, target: Tensor) -> Tensor:
    """Penalize an error that repeats in every LR pixel: the squared mean error of each position in it, less the overall mean.

    (B, C, H, W) with sides that SCALE divides -> scalar. Such a pattern is visible on flat areas long before it weighs in the
    MSE.

    (B, C, H, W) with sides that SCALE divides -> scalar. On flat ground such a pattern is seen long before the MSE
    feels it.
    """
    places = rearrange(image - target, "b c (h y) (w x) -> b c (h w) (y x)", y=SCALE, x=SCALE).mean(2)
    return (places - places.mean(-1, keepdim=True)).square().mean()


def focal_loss(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Compute the focal loss (Lin et al., 2017) on logits, for targets in [0, 1]. Any shape -> scalar."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    wrong = probability * (1 - target) + (1 - probability) * target
    balance = alpha * target + (1 - alpha) * (1 - target)
    return (balance * wrong.pow(gamma) * cross_entropy).mean()


def dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Compute 1 - 2|s s'| / (|s| + |s'|) per image, smoothed by one pixel, and average it. (B, 1, H, W) -> scalar."""
    overlap = (probability * target).sum((1, 2, 3))
    total = probability.sum((1, 2, 3)) + target.sum((1, 2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def lpips_backbone_file(net: str) -> Path:
    """Return the path at which torchvision keeps the ImageNet weights of LPIPS's backbone."""
    import torchvision

    weights = {
        "vgg": torchvision.models.VGG16_Weights.IMAGENET1K_V1,
        "alex": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
    }
    return Path(torch.hub.get_dir()) / "checkpoints" / weights[net].url.rsplit("/", 1)[1]


def make_lpips(net: str, *, random_backbone: bool = False) -> nn.Module:
    """Build a frozen LPIPS for images in [-1, 1]. Raises ConfigError if its backbone is not on disk: nothing is downloaded."""
    try:
        import lpips
    except ImportError as error:
        raise ConfigError("LPIPS needs the package lpips: pip install 'tadisr[train]', or set lpips: off.") from error
    if not random_backbone and not lpips_backbone_file(net).exists():
        raise ConfigError(
            f"LPIPS needs {lpips_backbone_file(net)}, which is not there; put torchvision's file in its place or set "
            "lpips: off in the config."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it calls torchvision by old names; on meta nothing can be loaded
        return lpips.LPIPS(net=net, pnet_rand=random_backbone, verbose=False).requires_grad_(False).eval()


def lpips_distance(network: nn.Module, image: Tensor, target: Tensor, value_range: str) -> Tensor:
    """Compute the mean LPIPS of images (B, 3, H, W) in [0, 1] -> scalar. value_range: `signed` or `unit`, see LossConfig."""
    if value_range == "unit":
        return network(image.clamp(0, 1), target.clamp(0, 1)).mean()
    return network(image * 2 - 1, target * 2 - 1).mean()


class Objective(nn.Module):
    """l_tot and its parts. `random_backbone` is for tests of the LPIPS path where no weights can be had."""

    def __init__(self, config: LossConfig, *, random_backbone: bool = False) -> None:
        super().__init__()
        self.config = config
        self.lpips = None if config.lpips == "off" else make_lpips(config.lpips_net, random_backbone=random_backbone)
        self.ocr: nn.Module | None = None
        if config.ocr:
            from .ocr import OCRLoss

            self.ocr = OCRLoss(config.ocr_models, kind=config.ocr_kind, lines=config.ocr_lines)

    def forward(
        self,
        image: Tensor,
        logits: Tensor | None,
        target: Tensor,
        target_mask: Tensor,
        *,
        upscaled: Tensor | None = None,
        log_variance: Tensor | None = None,
        known: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the weighted terms, and their sum as `total`.

        image, target, upscaled (B, 3, H, W) in [0, 1]; logits, target_mask, log_variance (B, 1, H, W); known (B, 1): 1
        where the target mask is the true one, else the image is left out of l_seg; None: it always is.
        """
        c = self.config
        mask = None if logits is None else logits.sigmoid()
        terms: dict[str, Tensor] = {}
        if c.mse:
            terms["mse"] = c.mse * balanced_mse(image, target, upscaled, c.balance)
        if self.lpips is not None and c.lpips != "off":
            terms["lpips"] = c.lpips * lpips_distance(self.lpips, image, target, c.lpips_range)
        if c.mf:
            terms["mf"] = c.mf * modified_focal(image, target, mask, target_mask, c.gamma)
        if c.grid:
            terms["grid"] = c.grid * grid_loss(image, target)
        if self.ocr is not None:
            terms["ocr"] = c.ocr * self.ocr(image, target, target_mask)
        if log_variance is not None and c.certainty:
            terms["certainty"] = c.certainty * certainty_loss(image, target, log_variance)
        if logits is not None and mask is not None:
            if known is not None:
                chosen = known[:, 0] > 0
                logits, mask, target_mask = logits[chosen], mask[chosen], target_mask[chosen]
            if not len(logits):
                terms["seg_none"] = logits.sum()  # zero, with a gradient for every process of a distributed run
            else:
                terms |= self.segmentation_terms(logits, mask, target_mask)
        terms["total"] = torch.stack(list(terms.values())).sum()
        return terms

    def segmentation_terms(self, logits: Tensor, mask: Tensor, target_mask: Tensor) -> dict[str, Tensor]:
        """Compute the terms of l_seg, Eq. 9. All (B, 1, H, W)."""
        c = self.config
        terms: dict[str, Tensor] = {}
        if c.seg_mse:
            terms["seg_mse"] = c.seg * c.seg_mse * F.mse_loss(mask, target_mask)
        if c.focal:
            terms["focal"] = c.seg * c.focal * focal_loss(logits, target_mask, c.focal_alpha, c.focal_gamma)
        if c.dice:
            terms["dice"] = c.seg * c.dice * dice_loss(mask, target_mask)
        return terms
