"""The text attention, to look at and to use as a mask."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..tadisr import heatmap
from ..tadisr.stages import Attention
from . import bridge


class TADiSRTextAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRTextAttention",
            display_name="TADiSR Text Attention",
            category=bridge.STAGES,
            description='Shows where the network\'s cross-attention answers to the word "text", as a mask and as a heat map.',
            **bridge.aliases("cross attention", "heat map", "daam"),
            inputs=[
                bridge.Attention.Input("attention", tooltip="From TADiSR Denoise."),
                io.Combo.Input(
                    "layers", options=list(heatmap.LAYERS), default="all",
                    tooltip="All cross-attention layers of the U-Net, or those of its down, mid or up blocks.",
                ),
                io.String.Input(
                    "heads", default="all", tooltip='"all", or numbers such as "0, 2, 5-7".'
                ),
                io.Combo.Input(
                    "normalize", options=list(heatmap.NORMALIZE), default="picture",
                    tooltip="Stretch to 0..1 by each picture's own range, by the batch's, or leave the responses as they are.",
                ),
                io.Combo.Input(
                    "color_map", options=list(heatmap.COLOR_MAPS), default="turbo", tooltip="Colours of the heat map.",
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="The heat map is laid over this picture; without it, it stands alone.",
                ),
            ],
            outputs=[
                io.Mask.Output("map", display_name="mask", tooltip="The mean response, at 4x whatever the scale."),
                io.Image.Output("heat_map", display_name="heat map", tooltip="The response in colours."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        attention: Attention,
        layers: str,
        heads: str,
        normalize: str,
        color_map: str,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        heat = heatmap.heat_map(attention, layers=layers, heads=heads, normalize=normalize)
        if image is None:
            colors = heatmap.colorize(heat, color_map)
        else:
            colors = heatmap.overlay(heat, bridge.from_comfy(image).cpu(), color_map)
        return io.NodeOutput(bridge.to_mask(heat), bridge.to_comfy(colors))
