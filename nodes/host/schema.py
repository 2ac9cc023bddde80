"""Types, categories and inputs that several nodes share."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from comfy_api.latest import io

from ...tadisr.config import TrunkConfig
from ...tadisr.inference.target_size import TARGETS
from ...tadisr.ocr import ENGINES

InputT = TypeVar("InputT", bound=io.Input)
Model = io.Custom("TADISR_MODEL")
FrozenBase = io.Custom("TADISR_BASE")
Prompt = io.Custom("TADISR_PROMPT")
Attention = io.Custom("TADISR_ATTENTION")
Tiles = io.Custom("TADISR_TILING")
CATEGORY = "TADiSR"
STAGES = "TADiSR/stages"
TEXT = "TADiSR/text"
DETAIL = TrunkConfig.detail


def search_aliases(*names: str, essentials: str | None = None) -> dict[str, Any]:
    """Return search words of a node, and its place among the page's essentials, as far as this ComfyUI has them."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    wanted = {"search_aliases": list(names), "essentials_category": essentials}
    return {name: value for name, value in wanted.items() if name in known}


def fold_away(shown: InputT) -> InputT:
    """Mark an input as advanced: the page folds it away."""
    shown.extra_dict["advanced"] = True
    return shown


def scale_input() -> io.Float.Input:
    return io.Float.Input(
        "scale", default=4.0, min=1.0, max=4.0, step=0.25,
        tooltip="Magnification. The network always works at 4x; less is an exact resize of its result.",
    )  # fmt: skip


def tiling_input() -> io.Input:
    return Tiles.Input("tiling", optional=True, tooltip="From TADiSR Tiling; it replaces the three tile settings here.")


def fidelity_input() -> io.Float.Input:
    return io.Float.Input(
        "fidelity", default=0.0, min=0.0, max=1.0, step=0.05, optional=True,
        tooltip="Blend toward the plainly resized input outside the text, 0 to 1.",
    )  # fmt: skip


def tile_input() -> io.Int.Input:
    return io.Int.Input(
        "tile", default=768, min=0, max=8192, step=64,
        tooltip="Side of a tile in pixels of the 4x image, 128 or more. Smaller needs less memory; halved by itself when "
        "memory runs out. 0: up to 768, as the free memory allows.",
    )  # fmt: skip


def overlap_input() -> io.Int.Input:
    return io.Int.Input(
        "overlap", default=-1, min=-1, max=4096, step=1,
        tooltip="Pixels of the 4x image that two tiles share; they are blended there. More than half a tile is cut to "
        "half a tile. -1: as much as the model needs.",
    )  # fmt: skip


def guide_input() -> io.Mask.Input:
    return io.Mask.Input(
        "mask", optional=True,
        tooltip="A text mask that you have edited, of any size: white where text should be, black elsewhere. "
        "Both decoders are steered toward it.",
    )  # fmt: skip


def detail_input() -> io.Float.Input:
    return io.Float.Input(
        "detail", default=DETAIL, min=0.0, max=1.0, step=0.05, optional=True,
        tooltip="How much uncertain detail is kept: 1 all of it, 0 only what the model is certain of. Models "
        "without a certainty output keep all.",
    )  # fmt: skip


def text_guard_input() -> io.Combo.Input:
    return io.Combo.Input(
        "text_guard", options=["off", "auto", *ENGINES], default="off", optional=True,
        tooltip="Blend lines back to the plainly resized input if an OCR engine reads them differently after upscaling. auto: "
        "paddleocr where it is installed with models, else rapidocr.",
    )  # fmt: skip


def resize_to_input() -> io.Combo.Input:
    return io.Combo.Input(
        "resize_to", options=list(TARGETS), default="scale", optional=True,
        tooltip="What sets the size of the result: scale, or target_size as its shortest side, longest side or megapixels. "
        "Above 4x the network runs a second time on its own result, up to 16x.",
    )  # fmt: skip


def target_size_input() -> io.Float.Input:
    return io.Float.Input(
        "target_size", default=2048.0, min=0.01, max=65536.0, step=0.01, round=0.01, optional=True,
        tooltip="Pixels of the side that resize_to names, or megapixels. Without effect when resize_to is scale.",
    )  # fmt: skip


def upscale_model_output() -> io.UpscaleModel.Output:
    return io.UpscaleModel.Output(
        "upscale_model", display_name="upscale_model",
        tooltip="The same model for Upscale Image (using Model) and tiled upscalers of other packs; without a text mask.",
    )  # fmt: skip


def result_outputs() -> list[Any]:
    """Return the outputs that `tensors.to_outputs` fills: image, text mask, certainty."""
    return [
        io.Image.Output("upscaled", display_name="image", tooltip="The upscaled images, in order."),
        io.Mask.Output("text_mask", display_name="mask", tooltip="Text probability per pixel, 0 to 1."),
        io.Mask.Output(
            "certainty", display_name="certainty",
            tooltip="Certainty of each pixel, 0 to 1; all 0 for a model without that output.",
        ),
    ]  # fmt: skip


def tile_batch_input(name: str) -> io.Int.Input:
    return io.Int.Input(
        name, default=1, min=1, max=64,
        tooltip="Tiles run at once. More is faster on a GPU with room for them.",
    )  # fmt: skip


def engine_input() -> io.Combo.Input:
    return io.Combo.Input(
        "engine",
        options=["auto", *ENGINES],
        default="auto",
        tooltip="auto: paddleocr where it is installed with models (in models/ppocr), else rapidocr, which brings its own.",
    )
