"""How a large picture is cut into tiles, and what that looks like."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..tadisr import SCALE, marks
from ..tadisr.pipeline import coarse_text
from ..tadisr.tiling import BLENDS, Tiling
from . import bridge
from .memory import Loaded


class TADiSRTiling(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRTiling",
            display_name="TADiSR Tiling",
            category=bridge.CATEGORY,
            description="How Upscale with TADiSR cuts a large picture into tiles, with a preview over the picture.",
            **bridge.aliases("tiles", "tiled upscale"),
            inputs=[
                bridge.tile_input(),
                bridge.overlap_input(),
                bridge.folded(bridge.tile_batch_input("batch")),
                io.Combo.Input(
                    "blend", options=list(BLENDS), default="cosine",
                    tooltip="How one tile hands over to the next across their overlap; none: at a hard line.",
                ),
                io.Boolean.Input(
                    "text_aware", default=True,
                    tooltip="Lay the seams where there is least text: a first look at the whole picture, made small, finds it.",
                ),
                io.Image.Input("image", optional=True, tooltip="The preview is drawn over this picture, before upscaling."),
                bridge.Model.Input(
                    "model", optional=True, tooltip="For a preview of text-aware seams: the model that finds the text."
                ),
            ],
            outputs=[
                bridge.Tiles.Output("tiling", display_name="tiling", tooltip="Goes into Upscale with TADiSR."),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="The tiles outlined, where they are joined in red."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        tile: int,
        overlap: int,
        batch: int,
        blend: str,
        text_aware: bool,
        image: Tensor | None = None,
        model: Loaded | None = None,
    ) -> io.NodeOutput:
        tiling = Tiling(tile=tile, overlap=overlap, batch=batch, blend=blend, text_aware=text_aware)
        if image is None:
            image = torch.ones(1, 2 * tile // SCALE, 3 * tile // SCALE, 3)  # an empty sheet of a few tiles
        pictures = bridge.from_comfy(image)[:, :3].cpu().float()
        text = None
        if text_aware and model is not None:
            advice = "One tile is too large for this GPU's memory: make it smaller."
            with bridge.in_memory(model, "all", pixels=tile**2, advice=advice) as network:
                text = coarse_text(network, pictures, tiling, model.load_device)
        drawn = [
            marks.draw_tiles(picture, tiling, None if text is None else text[i, 0])
            for i, picture in enumerate(pictures.split(1))
        ]
        return io.NodeOutput(tiling, bridge.to_comfy(torch.cat(drawn)))
