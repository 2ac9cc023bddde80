"""Picture -> four times larger, with the mask of its text: the whole way in one node."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..tadisr import upscale_in_memory
from ..tadisr.color import MODES
from . import bridge


class TADiSRUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRUpscale",
            display_name="Upscale with TADiSR",
            category=bridge.CATEGORY,
            description="Upscales pictures up to 4x in one step and keeps their text legible; also gives a mask of the text.",
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch, any size, with or without alpha."),
                bridge.Model.Input("model", tooltip="From Load TADiSR Model."),
                io.Float.Input(
                    "scale", default=4.0, min=1.0, max=4.0, step=0.25,
                    tooltip="Magnification. The network always works at 4x; less is an exact resize of its result.",
                ),
                io.Int.Input(
                    "tile", default=768, min=128, max=8192, step=64,
                    tooltip="Side of a tile in pixels of the 4x picture. Smaller needs less memory. "
                    "Halved by itself when memory runs out.",
                ),
                io.Int.Input(
                    "overlap", default=256, min=0, max=4096, step=16,
                    tooltip="Pixels of the 4x picture that two tiles share; they are blended there. At most half a tile.",
                ),
                io.Int.Input(
                    "tile_batch", default=1, min=1, max=64,
                    tooltip="Tiles run at once. More is faster on a GPU with room for them.",
                ),
                io.Combo.Input(
                    "color", options=list(MODES), default="off",
                    tooltip="Bring the colours back to the input's: adain by mean and deviation, "
                    "wavelet by its coarse structure.",
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
        cls, image: Tensor, model: ModelPatcher, scale: float, tile: int, overlap: int, tile_batch: int, color: str
    ) -> io.NodeOutput:
        network, device = bridge.bring_in(model, pixels=tile_batch * tile**2)
        result = upscale_in_memory(
            network,
            bridge.from_comfy(image),
            scale=scale,
            tile=tile,
            overlap=overlap,
            batch=tile_batch,
            color_fix=color,
            device=device,
            progress=bridge.progress(cls.hidden.unique_id),
            say=bridge.say(cls.hidden.unique_id),
        )
        return io.NodeOutput(bridge.to_comfy(result.image), bridge.to_mask(result.mask))
