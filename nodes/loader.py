"""TADiSR model -> the model in the host's hands."""

from __future__ import annotations

from comfy_api.latest import io

from ..tadisr.precision import DTYPES
from . import bridge


class TADiSRLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRLoader",
            display_name="Load TADiSR Model",
            category=bridge.CATEGORY,
            description="Loads a text-aware upscaler: the compact model of the pack, or one from models/tadisr.",
            **bridge.aliases("text upscaler", "super resolution", "tadisr"),
            inputs=[
                io.Combo.Input(
                    "model",
                    options=bridge.model_names(),
                    default=bridge.BUILT_IN,
                    tooltip="The compact model needs no download and runs on a CPU. Files in models/tadisr follow it.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=["auto", *DTYPES],
                    default="auto",
                    tooltip="Number type of the weights. auto: fp16 on a GPU that is fast with it, else fp32.",
                ),
                io.Combo.Input(
                    "base",
                    options=bridge.base_names(),
                    default=bridge.NO_BASE,
                    optional=True,
                    tooltip="For an adapter: its frozen base, a folder in models/diffusers with unet (CogView4: "
                    "transformer) and vae in it.",
                ),
            ],
            outputs=[
                bridge.Model.Output(
                    "tadisr_model",
                    display_name="model",
                    tooltip="Goes into Upscale with TADiSR, TADiSR Tiling and every stage.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, dtype: str, base: str = bridge.NO_BASE) -> tuple[str | float, ...]:
        """A file that was replaced is loaded again."""
        folder = bridge.base_path(base)
        files = [bridge.model_path(model), *(sorted(folder.rglob("*.safetensors")) if folder else [])]
        return model, dtype, base, *(file.stat().st_mtime for file in files)

    @classmethod
    def execute(cls, model: str, dtype: str, base: str = bridge.NO_BASE) -> io.NodeOutput:
        return io.NodeOutput(bridge.load_model(bridge.model_path(model), dtype, bridge.base_path(base)))
