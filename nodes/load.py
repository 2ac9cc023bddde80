"""Loading models: the compact model or a file, a frozen base, an adapter on it."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..tadisr import CheckpointError, preset
from ..tadisr.checkpoints.base_model import find_base
from ..tadisr.checkpoints.tensor_index import Table
from ..tadisr.model.precision import DTYPES
from ..tadisr.prompt import EncodedPrompt
from .host import base_files, folders, model_files, schema
from .host.checked_node import Node
from .host.model_management import Base, load_model, number_types
from .host.upscale_model import UpscaleModel


class TADiSRLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRLoader",
            display_name="Load TADiSR Model",
            category=schema.CATEGORY,
            description="Loads a text-aware upscaler: the compact model of the pack, or one from models/tadisr.",
            **schema.search_aliases("text upscaler", "super resolution", "tadisr"),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_files.model_names(),
                    default=model_files.BUILT_IN,
                    tooltip="The compact model needs no download and runs on a CPU. Files in models/tadisr follow it.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="Dtype of the weights. auto: fp16 on a GPU that is fast with it, else fp32.",
                ),
                schema.fold_away(
                    io.Combo.Input(
                        "base",
                        options=base_files.base_names(),
                        default=base_files.NO_BASE,
                        optional=True,
                        tooltip="For an adapter: its frozen base, a folder in models/diffusers with unet (CogView4: "
                        "transformer) and vae in it.",
                    )
                ),
            ],
            outputs=[
                schema.Model.Output(
                    "tadisr_model",
                    display_name="model",
                    tooltip="Goes into Upscale with TADiSR, TADiSR Tiling and every stage.",
                ),
                schema.upscale_model_output(),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str, base: str = base_files.NO_BASE) -> tuple[str | float, ...]:
        """A file that was replaced is loaded again."""
        folder = base_files.base_path(base)
        files = [model_files.model_path(model), *(sorted(folder.rglob("*.safetensors")) if folder else [])]
        return model, dtype, base, *(folders.changed(file) for file in files)

    @classmethod
    def execute(cls, model: str, dtype: str, base: str = base_files.NO_BASE) -> io.NodeOutput:
        loaded = load_model(model_files.model_path(model), dtype, base_files.base_path(base))
        return io.NodeOutput(loaded, UpscaleModel(loaded))


class TADiSRKolorsLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRKolorsLoader",
            display_name="Load Kolors for TADiSR",
            category=schema.CATEGORY,
            description="Loads Kolors' U-Net and VAE from the model folders: the frozen base of TADiSR's "
            "adapters. A CogView4 folder works too, for adapters on CogView4. No text encoder is needed: an "
            "adapter carries the prompt "
            "it was trained with.",
            **schema.search_aliases("kolors", "cogview4", "tadisr base", "diffusion model"),
            inputs=[
                io.Combo.Input(
                    "unet",
                    options=base_files.unet_names(),
                    tooltip="A Kolors or CogView4 folder in models/diffusers, or Kolors' one file in models/diffusion_models "
                    "or models/unet, with diffusers' or ComfyUI's keys.",
                ),
                io.Combo.Input(
                    "vae",
                    options=base_files.vae_names(),
                    default=base_files.BESIDE,
                    tooltip="The VAE in the U-Net's folder, or a file in models/vae: SDXL's sdxl_vae.safetensors, not its "
                    "fp16-fix variant.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="Dtype of the weights. auto: bf16 or fp16 on a GPU, else fp32. fp8: the U-Net stored in half "
                    "the memory and computed in 16 bit, for GPUs with 8 GB.",
                ),
                io.Vae.Input(
                    "host_vae",
                    optional=True,
                    tooltip="A VAE from another node, such as Load VAE; it is used instead of the one chosen above.",
                ),
            ],
            outputs=[
                schema.FrozenBase.Output("tadisr_base", display_name="base", tooltip="Goes into Load TADiSR Adapter.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, unet: str, vae: str, dtype: str, host_vae: Any = None) -> tuple[Any, ...]:
        """A file that was replaced is loaded again."""
        path = base_files.unet_path(unet)
        try:
            other = base_files.read_times(base_files.vae_path(vae, path))
        except CheckpointError:  # a socket may bring it; else execute says it
            other = ()
        return unet, vae, dtype, base_files.read_times(path), other

    @classmethod
    def execute(cls, unet: str, vae: str, dtype: str, host_vae: Any = None) -> io.NodeOutput:
        kind, compute = number_types(dtype, wide=True)
        path = base_files.unet_path(unet)
        source = base_files.vae_path(vae, path) if host_vae is None else from_socket(host_vae)
        config = preset("cogview4" if (path / "transformer").is_dir() else "kolors")
        tables = find_base(path, config, vae=source, dtype=kind)
        base_files.check_tables(tables)
        return io.NodeOutput(Base(tables[config.denoiser], tables["vae"], kind, compute))


def from_socket(vae: Any) -> Table:
    """Return the weights of a VAE that ComfyUI has loaded."""
    return Table.of(vae.get_sd(), "the VAE that is connected")


class TADiSRAdapterLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRAdapterLoader",
            display_name="Load TADiSR Adapter",
            category=schema.CATEGORY,
            description="Loads an adapter onto its frozen base: LoRA, text decoder and prompt. Several adapters "
            "may share one base, which is kept in memory once.",
            **schema.search_aliases("tadisr lora", "text upscaler", "super resolution"),
            inputs=[
                schema.FrozenBase.Input("base", tooltip="From Load Kolors for TADiSR."),
                io.Combo.Input(
                    "adapter",
                    options=model_files.adapter_names(),
                    tooltip="A file in models/tadisr that was trained on this base, or imported from the authors' release.",
                ),
                schema.fold_away(
                    io.Float.Input(
                        "strength", default=1.0, min=-2.0, max=2.0, step=0.05,
                        tooltip="Strength of the adapter's LoRA. 1: as trained; 0: the base's own weights.",
                    )
                ),
                schema.Prompt.Input(
                    "prompt",
                    optional=True,
                    tooltip="Another prompt than the one that the adapter carries, from TADiSR Encode Prompt or Load TADiSR "
                    "Prompt. A release imported without a prompt needs one.",
                ),
            ],
            outputs=[
                schema.Model.Output(
                    "tadisr_model",
                    display_name="model",
                    tooltip="Goes into Upscale with TADiSR, TADiSR Tiling and every stage.",
                ),
                schema.upscale_model_output(),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, adapter: str, strength: float, **_: object) -> tuple[str, float, int]:
        """A file that was replaced is loaded again."""
        return adapter, strength, folders.changed(model_files.model_path(adapter))

    @classmethod
    def execute(cls, base: Base, adapter: str, strength: float, prompt: EncodedPrompt | None = None) -> io.NodeOutput:
        loaded = base.with_adapter(model_files.model_path(adapter), strength=strength, prompt=prompt)
        return io.NodeOutput(loaded, UpscaleModel(loaded))
