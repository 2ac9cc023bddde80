"""Kolors' U-Net and VAE, wherever the user keeps them -> the frozen base that adapters stand on."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..tadisr import CheckpointError, preset
from ..tadisr.kolors.base import find_base
from ..tadisr.precision import DTYPES
from ..tadisr.table import Table
from . import bridge, kolors_files
from .memory import Base, number_types


class TADiSRKolorsLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRKolorsLoader",
            display_name="Load Kolors for TADiSR",
            category=bridge.CATEGORY,
            description="Finds Kolors' U-Net and its VAE in the model folders: the frozen base of TADiSR's adapters. "
            "A CogView4 folder serves too, for adapters on CogView4. No text encoder is needed: an adapter carries the prompt "
            "it was trained with.",
            **bridge.aliases("kolors", "cogview4", "tadisr base", "diffusion model"),
            inputs=[
                io.Combo.Input(
                    "unet",
                    options=kolors_files.unet_names(),
                    tooltip="A Kolors or CogView4 folder in models/diffusers, or Kolors' one file in models/diffusion_models "
                    "or models/unet, with diffusers' or ComfyUI's keys.",
                ),
                io.Combo.Input(
                    "vae",
                    options=kolors_files.vae_names(),
                    default=kolors_files.BESIDE,
                    tooltip="The VAE in the U-Net's folder, or a file in models/vae: SDXL's sdxl_vae.safetensors, not its "
                    "fp16-fix variant.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="Number type of the weights. auto: bf16 or fp16 on a GPU, else fp32. fp8: the U-Net stored in half "
                    "the memory and computed in 16 bit, for cards of 8 GB.",
                ),
                io.Vae.Input(
                    "host_vae",
                    optional=True,
                    tooltip="A VAE from another node, such as Load VAE; it is used instead of the one chosen above.",
                ),
            ],
            outputs=[
                bridge.FrozenBase.Output("tadisr_base", display_name="base", tooltip="Goes into Load TADiSR Adapter.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, unet: str, vae: str, dtype: str, host_vae: Any = None) -> tuple[Any, ...]:
        """A file that was replaced is loaded again."""
        path = kolors_files.unet_path(unet)
        try:
            other = kolors_files.times(kolors_files.vae_path(vae, path))
        except CheckpointError:  # a socket may bring it; else execute says it
            other = ()
        return unet, vae, dtype, kolors_files.times(path), other

    @classmethod
    def execute(cls, unet: str, vae: str, dtype: str, host_vae: Any = None) -> io.NodeOutput:
        kind, compute = number_types(dtype, wide=True)
        path = kolors_files.unet_path(unet)
        source = kolors_files.vae_path(vae, path) if host_vae is None else from_socket(host_vae)
        config = preset("cogview4" if (path / "transformer").is_dir() else "kolors")
        tables = find_base(path, config, vae=source, dtype=kind)
        kolors_files.check(tables)
        return io.NodeOutput(Base(tables[config.denoiser], tables["vae"], kind, compute))


def from_socket(vae: Any) -> Table:
    """The weights of a VAE that the host has loaded."""
    return Table.of(vae.get_sd(), "the VAE that is connected")
