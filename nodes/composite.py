"""The text from one upscaler, the rest from another."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..tadisr.composite import composite, shape_mask
from . import bridge


class TADiSRTextComposite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRTextComposite",
            display_name="Composite Text",
            category=bridge.TEXT,
            description="Lays the text of one picture over another one: the text from TADiSR, the rest from any upscaler. The "
            "result has the size of the larger picture.",
            **bridge.aliases("blend text", "paste text", "text mask composite"),
            inputs=[
                io.Image.Input("text_image", tooltip="The picture whose text is wanted, from Upscale with TADiSR."),
                io.Image.Input("rest_image", tooltip="The picture for all the rest, of any size but of the same shape."),
                io.Mask.Input("mask", tooltip="Where the text is, from Upscale with TADiSR; any size."),
                io.Int.Input(
                    "grow", default=8, min=-256, max=256,
                    tooltip="Pixels by which the mask grows before it is brought to the picture's size, edges and all; "
                    "negative shrinks.",
                ),
                io.Float.Input(
                    "feather", default=4.0, min=0.0, max=128.0, step=0.5, tooltip="Softens the mask's edge, in its pixels."
                ),
                io.Float.Input(
                    "threshold", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="How sure the mask has to be. 0 uses it as it is, soft.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="Text and rest together."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, text_image: Tensor, rest_image: Tensor, mask: Tensor, grow: int, feather: float, threshold: float
    ) -> io.NodeOutput:
        shaped = shape_mask(bridge.from_mask(mask).float(), grow=grow, feather=feather, threshold=threshold)
        result = composite(bridge.from_comfy(text_image).float(), bridge.from_comfy(rest_image).float(), shaped)
        return io.NodeOutput(bridge.to_comfy(result))
