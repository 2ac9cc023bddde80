"""Picture -> four times larger, with the mask of its text: the whole way in one node."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..tadisr import upscale_in_memory
from ..tadisr.color import MODES
from ..tadisr.tiling import Tiling
from . import bridge
from .memory import Loaded


class TADiSRUpscale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRUpscale",
            display_name="Upscale with TADiSR",
            category=bridge.CATEGORY,
            description="Upscales pictures up to 4x in one step and keeps their text legible; also gives a mask of the text.",
            **bridge.aliases("text upscale", "super resolution", "sharpen text", "restore text"),
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch, any size, with or without alpha."),
                bridge.Model.Input("model", tooltip="From Load TADiSR Model."),
                io.Float.Input(
                    "scale", default=4.0, min=1.0, max=4.0, step=0.25,
                    tooltip="Magnification. The network always works at 4x; less is an exact resize of its result.",
                ),
                bridge.tile_input(),
                bridge.folded(bridge.overlap_input()),
                bridge.folded(bridge.tile_batch_input("tile_batch")),
                io.Combo.Input(
                    "color", options=list(MODES), default="off",
                    tooltip="Bring the colours back to the input's: adain by mean and deviation, "
                    "wavelet by its coarse structure.",
                ),
                bridge.Tiles.Input(
                    "tiling", optional=True, tooltip="From TADiSR Tiling; it replaces the three tile settings here."
                ),
                bridge.guide_input(),
                io.Float.Input(
                    "fidelity", default=0.0, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="How much of the input stays as it was, only enlarged, where the mask finds no text.",
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
        image: Tensor,
        model: Loaded,
        scale: float,
        tile: int,
        overlap: int,
        tile_batch: int,
        color: str,
        tiling: Tiling | None = None,
        mask: Tensor | None = None,
        fidelity: float = 0.0,
    ) -> io.NodeOutput:
        tiling = tiling or Tiling(tile=tile, overlap=overlap, batch=tile_batch)
        progress = bridge.Progress(cls.hidden.unique_id)
        network = model.bring_in("all", pixels=tiling.batch * tiling.tile**2, guided=mask is not None)
        result = upscale_in_memory(
            network,
            bridge.from_comfy(image),
            scale=scale,
            tiling=tiling,
            guide=None if mask is None else bridge.from_mask(mask),
            fidelity=fidelity,
            color_fix=color,
            device=model.load_device,
            progress=progress,
            preview=progress.preview,
            say=bridge.say(cls.hidden.unique_id),
        )
        return io.NodeOutput(bridge.to_comfy(result.image), bridge.to_mask(result.mask))
