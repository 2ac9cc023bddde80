"""The network: VAE, denoiser with text-aware cross-attention, joint decoders."""

from .network import Output, TADiSR, check_buildable

__all__ = ["Output", "TADiSR", "check_buildable"]
