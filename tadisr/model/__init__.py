"""The network: VAE, denoiser with text-aware cross-attention, joint decoders."""

from .network import Output, TADiSR

__all__ = ["Output", "TADiSR"]
