"""The network: encode, denoise, text attention, decode. One image in, one image and one text mask out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import ConfigError, ImageError, TADiSRError
from ..prompt import Prompt
from .denoiser import build_denoiser
from .joint_decoder import JointParts
from .mask_guidance import find_offsets
from .precision import follow_input_dtype
from .schedule import denoise_latent, denoiser_time
from .text_attention import Recorder, TextProjection
from .vae import build_vae, decode_latent, drop_last_level, encode_image

if TYPE_CHECKING:  # diffusers takes seconds to import: it is imported where a network is built
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.modeling_utils import ModelMixin

log = logging.getLogger(__name__)
LARGEST_MULTIPLE = 1024  # of an image's sides, in pixels; Kolors has 32
T = TypeVar("T")


@dataclass(frozen=True)
class Output:
    """The result of one pass. The image is not clamped; the mask is logits, None without the joint decoders."""

    image: Tensor  # (B, 3, H, W), about [0, 1]
    mask_logits: Tensor | None  # (B, 1, H, W)
    latent: Tensor  # z_H (B, c, H/8, W/8), scaled
    responses: list[Tensor]  # a_tex^1..M, each (B, heads, h, w)
    log_variance: Tensor | None = None  # of the image's error (B, 1, H, W); None without a certainty output


def cast_all(value: Any, dtype: torch.dtype) -> Any:
    """Cast a tensor, or the tensors in a list, to another dtype; None stays None."""
    if isinstance(value, list):
        return [one.to(dtype) for one in value]
    return None if value is None else value.to(dtype)


class TADiSR(nn.Module):
    """Fig. 2 as a module. `vae` and `denoiser` are the base; the rest is what TADiSR adds to it.

    The denoiser is registered as `unet` or `transformer`, as `config.parts` names it.
    """

    def __init__(self, config: ModelConfig, **parts: nn.Module) -> None:
        """parts: of the base, by `config.parts`, where they are there already; several models may share them."""
        super().__init__()
        self.config = config
        self.overflowed = False  # fp16 did not suffice for the VAE: it and the decoders run in fp32
        self.file: str | None = None  # whose weights it has, for messages; None where they were made here
        self.placed: torch.device | None = None  # where it runs, when a host that moves layers one by one says so
        self.base_digest: dict[str, str | None] = {}  # of each part of a frozen base, set by whoever loads one
        self.vae: AutoencoderKL = parts.get("vae") or build_vae(config)  # pyright: ignore[reportAttributeAccessIssue]
        self.add_module(config.denoiser, parts.get(config.denoiser) or build_denoiser(config))
        self.prompt = Prompt(config.prompt)
        self.recorder = Recorder(self.denoiser, config.text_attention)
        self.text_attention: TextProjection | None = None
        if config.decoder.joint and config.decoder.source == "attention":
            # Without text-aware attention the text decoder starts from the denoised latent instead.
            channels = self.recorder.channels if config.text_attention.enabled else config.vae["latent_channels"]
            way = config.text_attention.resize if config.text_attention.enabled else "bilinear"
            self.text_attention = TextProjection(channels=channels, width=config.decoder.text_channels[0], resize=way)
        self.decoder = JointParts(config.decoder, vae_channels=config.vae["block_out_channels"], patch=config.patch)
        if config.decoder.trunk is not None:
            drop_last_level(self.vae)
        elif config.residual and "vae" not in parts:
            nn.init.zeros_(self.vae.decoder.conv_out.weight)  # training starts from the upscaled input itself

    @property
    def denoiser(self) -> ModelMixin:
        return getattr(self, self.config.denoiser)

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.decoder.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.placed or self.vae.decoder.conv_in.weight.device

    @property
    def takes_guide(self) -> bool:
        """Tell whether the trunk reads a guide itself, so that no gradient steps are needed."""
        return self.decoder.trunk is not None and self.decoder.trunk.guide is not None

    @property
    def gives_certainty(self) -> bool:
        """Tell whether the trunk predicts a certainty for each pixel."""
        return self.decoder.trunk is not None and self.decoder.trunk.certainty is not None

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode (B, 3, H, W) in [0, 1] -> z_L (B, c, H/8, W/8), and the skips, finest first."""
        return self._picture(
            lambda kind: encode_image(
                self.vae, F.pixel_unshuffle(image.to(kind) * 2 - 1, self.config.patch), self.config.latent
            )
        )

    def _picture(self, run: Callable[[torch.dtype], tuple[Tensor, T]]) -> tuple[Tensor, T]:
        """Run `run` in the model's dtype. On fp16 overflow, switch VAE and decoders to fp32 for good."""
        if self.dtype == torch.float16 and not self.overflowed:
            result = run(self.dtype)
            if result[0].isfinite().all():
                return result
            self.overflowed = True
            log.warning("The VAE of the %s model overflows in fp16: it runs in fp32 from here on.", self.config.name)
        if self.overflowed:
            follow_input_dtype(self.vae)
            follow_input_dtype(self.decoder)
        return run(torch.float32 if self.overflowed else self.dtype)

    def denoise(self, latent: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Denoise in one step: z_L (B, c, h, w) -> z_H of the same shape (Eq. 1), and the layers' responses (Eq. 3).

        Each response is (B, heads, h', w'), one for every chosen cross-attention layer.
        """
        factor, schedule = self.config.latent_factor, self.config.schedule
        height, width = latent.shape[-2:]
        latent = latent.to(self.dtype)
        conditions = self.prompt.conditions(len(latent), (height * factor, width * factor), latent)
        positions = self.prompt.find_word_rows(self.config.text_attention.position)
        with self.recorder.record_responses(positions, (height, width)) as responses:
            prediction = self.denoiser(latent, denoiser_time(schedule), **conditions, return_dict=False)[0]
        return denoise_latent(schedule, latent, prediction), responses

    def project(self, latent: Tensor, responses: list[Tensor]) -> Tensor | None:
        """Project the responses to a_tex (B, width, H/8, W/8) of Eq. 4; None without the joint decoders, and if they do not
        start from it.
        """
        if self.text_attention is None:
            return None
        sources = responses if self.config.text_attention.enabled else [latent]
        return self.text_attention(sources, (latent.shape[2], latent.shape[3]))

    def decode(
        self,
        latent: Tensor,
        a_tex: Tensor | None,
        skips: list[Tensor] | None,
        upscaled: Tensor | None = None,
        guide: Tensor | None = None,
        *,
        strength: float = 1.0,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Decode z_H, a_tex and skips to image (B, 3, H, W), mask logits and log variance (B, 1, H, W) (Eq. 5-6).

        upscaled: the upscaled input (B, 3, H, W) in [0, 1], to which a residual model's image is added, in the
        input's precision: half has too few steps for an image. guide (B, 1, H, W) in [0, 1]: a text mask to follow; a
        trunk that takes one reads it (all zero: none), else `mask_guidance.find_offsets` moves the text stream, by strength 0
        to 1. Raises ImageError for a residual model without `upscaled`.
        """
        patch = self.config.patch
        if self.config.residual and upscaled is None:
            raise ImageError(f"The {self.config.name} model needs the upscaled input to add its image to.")
        offsets = None
        if guide is None or strength <= 0 or not self.config.decoder.joint:
            guide = None
        elif not self.takes_guide:
            offsets = find_offsets(self.vae, self.decoder, latent, a_tex, skips, guide, patch=patch, strength=strength)

        def run(kind: torch.dtype) -> tuple[Tensor, tuple[Tensor | None, Tensor | None]]:
            z, a, kept, moved = (cast_all(x, kind) for x in (latent, a_tex, skips, offsets))
            patches = drawn = None
            if self.decoder.trunk is not None and upscaled is not None:
                patches = F.pixel_unshuffle(upscaled.to(kind) * 2 - 1, patch)
                drawn = None if guide is None else F.pixel_unshuffle(guide.to(kind), patch)
            image, logits, log_variance = decode_latent(self.vae, self.decoder, z, a, kept, moved, patches, drawn)
            return image, (logits, log_variance)

        image, (logits, log_variance) = self._picture(run)
        image = F.pixel_shuffle(image, patch) / 2
        if not self.config.residual:
            image = image + 0.5
        elif upscaled is not None:
            image = image.to(upscaled.dtype) + upscaled
        logits, log_variance = (None if x is None else F.pixel_shuffle(x, patch) for x in (logits, log_variance))
        return image, logits, log_variance

    def forward(self, image: Tensor, guide: Tensor | None = None) -> Output:
        """Run the whole network on the upscaled input (B, 3, H, W) in [0, 1].

        Both sides are multiples of `config.multiple`, else ImageError is raised. guide: as `decode` takes it.
        """
        height, width = image.shape[-2:]
        if image.ndim != 4 or image.shape[1] != 3 or height % self.config.multiple or width % self.config.multiple:
            raise ImageError(
                f"The network got {tuple(image.shape)}, expected (B, 3, H, W) with sides that are multiples of "
                f"{self.config.multiple}; upscale() takes images of any size."
            )
        latent, skips = self.encode(image)
        latent, responses = self.denoise(latent)
        a_tex = self.project(latent, responses)
        picture, mask_logits, log_variance = self.decode(latent, a_tex, skips, image, guide)
        return Output(picture, mask_logits, latent, responses, log_variance)


def check_buildable(config: ModelConfig) -> None:
    """Build the network on the meta device and run it once on the smallest image. Raises ConfigError if that fails.

    What diffusers takes, and whether its parts fit one another, only diffusers knows; this takes 0.3 s for compact and
    2 s for Kolors.
    """
    size = config.multiple
    if size > LARGEST_MULTIPLE:
        raise ConfigError(
            f"its network takes images whose sides are multiples of {size}, expected {LARGEST_MULTIPLE} at most."
        )
    try:
        with torch.device("meta"), torch.inference_mode():
            model = TADiSR(config).eval()
            image = torch.empty(1, 3, size, size)
            output = model(image)
    except TADiSRError:
        raise
    except Exception as error:  # whatever diffusers and torch raise for arguments that fit nothing
        what = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"diffusers cannot build or run it ({type(error).__name__}: {what:.200}).") from error
    if output.image.shape != image.shape:
        raise ConfigError(f"it makes an image of {tuple(output.image.shape)} of one of {tuple(image.shape)}.")
