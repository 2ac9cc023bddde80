"""z_H and the text attention -> the picture and its text mask, by the two decoders tied to one another."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..tadisr import stages
from ..tadisr.stages import Attention
from . import bridge
from .memory import Loaded


class TADiSRJointDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRJointDecode",
            display_name="TADiSR Joint Decode",
            category=bridge.STAGES,
            description="Last stage: the image decoder and the text segmentation decoder, side by side. A text mask that "
            "you have edited steers them.",
            **bridge.aliases("tadisr vae decode", "text mask"),
            inputs=[
                io.Latent.Input("latent", tooltip="From TADiSR Denoise."),
                bridge.Attention.Input("attention", tooltip="From TADiSR Denoise."),
                bridge.Model.Input("model", tooltip="The same model as in the other stages."),
                bridge.guide_input(),
                io.Float.Input(
                    "guide_strength", default=1.0, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="How far the edited mask steers the decoders; 0: not at all.",
                ),
            ],
            outputs=[
                io.Image.Output("upscaled", display_name="image", tooltip="The upscaled pictures, in order."),
                io.Mask.Output("text_mask", display_name="mask", tooltip="How surely each pixel is text, 0 to 1."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        latent: dict[str, Any],
        attention: Attention,
        model: Loaded,
        mask: Tensor | None = None,
        guide_strength: float = 1.0,
    ) -> io.NodeOutput:
        with bridge.in_memory(
            model, "decode", pixels=bridge.pixels_of(model, latent), guided=mask is not None
        ) as network:
            result = stages.decode(
                network,
                latent["samples"].cpu(),
                attention,
                guide=None if mask is None else bridge.from_mask(mask),
                strength=guide_strength,
                progress=bridge.Progress(cls.hidden.unique_id),
            )
        return io.NodeOutput(bridge.to_comfy(result.image), bridge.to_mask(result.mask))
