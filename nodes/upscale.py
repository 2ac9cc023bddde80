"""Upscaling in one node, and how a large image is cut into tiles."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..tadisr import SCALE, upscale_in_memory
from ..tadisr.inference.color import MODES
from ..tadisr.inference.run_tile import coarse_text
from ..tadisr.inference.target_size import scale_for, split_passes
from ..tadisr.inference.tiling import BLENDS, Tiling
from ..tadisr.ocr import open_reader
from ..tadisr.visualization import overlays
from .host import folders, schema, tensors
from .host.checked_node import Node
from .host.model_management import Loaded, in_memory
from .host.progress import Progress, message_sender
from .host.tiles import MODEL_TOO_LARGE, make_tiling


class TADiSRUpscale(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRUpscale",
            display_name="Upscale with TADiSR (Super Resolution)",  # pages without aliases search names alone
            category=schema.CATEGORY,
            description="Text-aware super resolution: upscales images up to 4x in one step and keeps their text legible; also "
            "gives a mask of the text.",
            **schema.search_aliases(
                "text upscale", "super resolution", "sharpen text", "restore text", essentials="Image Tools"
            ),
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch, any size, with or without alpha."),
                schema.Model.Input("model", tooltip="From Load TADiSR Model."),
                schema.scale_input(),
                schema.tile_input(),
                schema.fold_away(schema.overlap_input()),
                schema.fold_away(schema.tile_batch_input("tile_batch")),
                io.Combo.Input(
                    "color", options=list(MODES), default="off",
                    tooltip="Bring the colours back to the input's: adain by mean and deviation, lab the same in CIELAB, "
                    "wavelet by its coarse structure.",
                ),
                schema.tiling_input(),
                schema.guide_input(),
                schema.fidelity_input(),
                schema.detail_input(),
                schema.text_guard_input(),
                schema.resize_to_input(),
                schema.target_size_input(),
            ],
            outputs=schema.result_outputs(),
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
        detail: float = schema.DETAIL,
        text_guard: str = "off",
        resize_to: str = "scale",
        target_size: float = 2048.0,
    ) -> io.NodeOutput:
        tell = message_sender(cls.hidden.unique_id)
        tiling = tiling or make_tiling(tell, tile=tile, overlap=overlap, model=model, batch=tile_batch)
        guide = tensors.guide_of(mask, tell)
        guard = None if text_guard == "off" else open_reader(text_guard, folders.ocr_models(text_guard))
        wanted = scale if resize_to == "scale" else scale_for(*image.shape[1:3], resize_to, target_size)
        pictures = tensors.from_comfy(image)
        with in_memory(model, "all", pixels=tiling.pixels, guided=guide is not None, advice=MODEL_TOO_LARGE) as network:
            for factor in split_passes(wanted):
                progress = Progress(cls.hidden.unique_id, "tile")
                result = upscale_in_memory(
                    network,
                    pictures,
                    scale=factor,
                    tiling=tiling,
                    guide=guide,
                    fidelity=fidelity,
                    detail=detail,
                    color_fix=color,
                    text_guard=guard,
                    device=model.load_device,
                    progress=progress,
                    preview=progress.preview,
                    say=tell,
                )
                pictures, guide = result.image, None
        return tensors.to_outputs(result)


class TADiSRTiling(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRTiling",
            display_name="TADiSR Tiling",
            category=schema.CATEGORY,
            description="How Upscale with TADiSR cuts a large image into tiles, with a preview over the image.",
            **schema.search_aliases("tiles", "tiled upscale"),
            inputs=[
                schema.tile_input(),
                schema.overlap_input(),
                schema.fold_away(schema.tile_batch_input("batch")),
                io.Combo.Input(
                    "blend", options=list(BLENDS), default="cosine",
                    tooltip="How tiles are blended across their overlap; none: a hard seam.",
                ),
                io.Boolean.Input(
                    "text_aware", default=True,
                    tooltip="Place the seams where there is least text, found by a first pass over the downscaled image.",
                ),
                io.Image.Input("image", optional=True, tooltip="The preview is drawn over this image, before upscaling."),
                schema.Model.Input(
                    "model", optional=True, tooltip="For a preview of text-aware seams: the model that finds the text."
                ),
            ],
            outputs=[
                schema.Tiles.Output("tiling", display_name="tiling", tooltip="Goes into Upscale with TADiSR."),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="The outlined tiles, seams in red."
                ),
            ],
            hidden=[io.Hidden.unique_id],
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
        tell = message_sender(cls.hidden.unique_id)
        tiling = make_tiling(
            tell, tile=tile, overlap=overlap, model=model, batch=batch, blend=blend, text_aware=text_aware
        )
        if image is None:
            side = tiling.tile // SCALE
            image = torch.ones(1, 2 * side, 3 * side, 3)  # an empty sheet of a few tiles
        pictures = tensors.from_comfy(image)[:, :3].cpu().float()
        text = None
        if text_aware and model is not None:
            advice = "One tile is too large for the memory: set tile to a smaller side."
            with in_memory(model, "all", pixels=tiling.tile**2, advice=advice) as network:
                text = coarse_text(network, pictures, tiling, model.load_device)
        drawn = [
            overlays.draw_tiles(picture, tiling, None if text is None else text[i, 0])
            for i, picture in enumerate(pictures.split(1))
        ]
        return io.NodeOutput(tiling, tensors.to_comfy(torch.cat(drawn)))
