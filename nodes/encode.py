"""Picture -> z_L, the base's latent of the upscaled input."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..tadisr import SCALE, stages
from . import bridge
from .memory import Loaded


class TADiSREncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSREncode",
            display_name="TADiSR Encode",
            category=bridge.STAGES,
            description="First stage: resizes a picture to 4x and encodes it. The latent is an ordinary one; what the "
            "decoders want of the picture rides along with it.",
            **bridge.aliases("tadisr vae encode"),
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch, any size, with or without alpha. Not tiled."),
                bridge.Model.Input("model", tooltip="From Load TADiSR Model; the same one in all stages."),
                io.Float.Input(
                    "scale", default=4.0, min=1.0, max=4.0, step=0.25,
                    tooltip="Magnification of the result. The network always works at 4x; less is an exact resize at the end.",
                ),
            ],
            outputs=[io.Latent.Output("latent", display_name="latent", tooltip="z_L, for TADiSR Denoise.")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, model: Loaded, scale: float) -> io.NodeOutput:
        pixels = image.shape[1] * image.shape[2] * SCALE**2
        with bridge.in_memory(model, "encode", pixels=pixels) as network:
            samples, source = stages.encode(
                network, bridge.from_comfy(image), scale=scale, progress=bridge.Progress(cls.hidden.unique_id)
            )
        return io.NodeOutput({"samples": bridge.to_host(samples), bridge.OURS: source})
