"""Text of images: composited, read, compared."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io
from torch import Tensor

from ..tadisr import ImageError, ocr
from ..tadisr.composite import EDITS, composite_images, edit_mask, shape_mask
from ..tadisr.images import check_aspect, resize_image
from ..tadisr.visualization import overlays
from .host import folders, schema, tensors
from .host.checked_node import Node
from .host.progress import Progress

BREAK = "  \n"  # also a line break where a report is shown as markdown, as Preview as Text does


class TADiSRTextComposite(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRTextComposite",
            display_name="Composite Text",
            category=schema.TEXT,
            description="Pastes the text of one image over another: the text from TADiSR, the rest from any upscaler. The "
            "result has the size of the larger image.",
            **schema.search_aliases("blend text", "paste text", "text mask composite"),
            inputs=[
                io.Image.Input("text_image", tooltip="The image whose text is wanted, from Upscale with TADiSR."),
                io.Image.Input("rest_image", tooltip="The image for all the rest, of any size but of the same shape."),
                io.Mask.Input("mask", tooltip="Where the text is, from Upscale with TADiSR; any size."),
                io.Int.Input(
                    "grow", default=8, min=-256, max=256,
                    tooltip="Pixels by which the mask grows before it is brought to the image's size, edges and all; "
                    "negative shrinks.",
                ),
                io.Float.Input(
                    "feather", default=4.0, min=0.0, max=128.0, step=0.5, tooltip="Softens the mask's edge, in its pixels."
                ),
                io.Float.Input(
                    "threshold", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="Mask value from which a pixel counts as text. 0 uses the soft mask as it is.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The composite."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, text_image: Tensor, rest_image: Tensor, mask: Tensor, grow: int, feather: float, threshold: float
    ) -> io.NodeOutput:
        shaped = shape_mask(tensors.from_mask(mask).float(), grow=grow, feather=feather, threshold=threshold)
        result = composite_images(
            tensors.from_comfy(text_image).float(), tensors.from_comfy(rest_image).float(), shaped
        )
        return io.NodeOutput(tensors.to_comfy(result))


class TADiSREditMask(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSREditMask",
            display_name="Edit Text Mask",
            category=schema.TEXT,
            description="Adds what you painted in the mask editor to the model's text mask, or wipes it out. Nothing painted: "
            "the mask goes through as it is, and steers nothing.",
            **schema.search_aliases("mask editor", "paint mask", "mask composite"),
            inputs=[
                io.Mask.Input("mask", tooltip="The model's mask, from Upscale with TADiSR or TADiSR Joint Decode."),
                io.Mask.Input("painted", tooltip="What you painted: the mask of Load Image. Of any size."),
                io.Combo.Input(
                    "operation", options=list(EDITS), default="add",
                    tooltip="add: text that was missed. subtract: what is no text. replace: the painted mask alone.",
                ),
            ],
            outputs=[
                io.Mask.Output("edited", display_name="mask", tooltip="For mask of Upscale with TADiSR or Joint Decode."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, mask: Tensor, painted: Tensor, operation: str) -> io.NodeOutput:
        edited = edit_mask(tensors.from_mask(mask).float(), tensors.from_mask(painted).float(), operation)
        return io.NodeOutput(tensors.to_mask(edited))


class TADiSRReadText(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRReadText",
            display_name="Read Text (PP-OCR)",
            category=schema.TEXT,
            description="Finds and reads the text of images, offline.",
            **schema.search_aliases("ocr", "recognize text", "paddleocr", "rapidocr"),
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch."),
                schema.engine_input(),
                io.Float.Input(
                    "minimum_confidence", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="Lines read with less confidence are left out.",
                ),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The lines, an empty line between two images."),
                io.String.Output(
                    "as_json", display_name="json",
                    tooltip="A list for each image: text, score and the four corners of every line.",
                ),
                io.Image.Output("boxes", display_name="image", tooltip="The images, the lines outlined and numbered."),
                io.Mask.Output("box_mask", display_name="mask", tooltip="White inside the lines."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, engine: str, minimum_confidence: float) -> io.NodeOutput:
        reader = ocr.open_reader(engine, folders.ocr_models(engine))
        pictures, masks, texts, data = [], [], [], []
        move = Progress(cls.hidden.unique_id)
        for i, picture in enumerate(tensors.from_comfy(image)[:, :3].cpu().split(1)):
            lines = [line for line in reader.read(picture) if line.score >= minimum_confidence and line.text.strip()]
            boxes = [line.box for line in lines]
            pictures.append(overlays.draw_boxes(picture, boxes, [overlays.GREEN] * len(boxes)))
            masks.append(overlays.box_mask(boxes, (picture.shape[2], picture.shape[3])))
            texts.append("\n".join(line.text for line in lines))
            data.append([{"text": x.text, "score": round(x.score, 4), "box": x.box.round(1).tolist()} for x in lines])
            move(i + 1, len(image))
        return io.NodeOutput(
            "\n\n".join(texts),
            json.dumps(data, ensure_ascii=False),
            tensors.to_comfy(torch.cat(pictures)),
            tensors.to_mask(torch.cat(masks)),
        )


class TADiSRCompareText(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRCompareText",
            display_name="Compare Text (OCR-A)",
            category=schema.TEXT,
            description="Reads the lines of the image before, and the same places in the image after, and scores how alike "
            "they are: OCR-A, the paper's measure.",
            **schema.search_aliases("ocr accuracy", "ocr-a", "text score", "text diff"),
            inputs=[
                io.Image.Input("before", tooltip="The reference; of the same shape as after, of any size."),
                io.Image.Input("after", tooltip="As many images as before."),
                schema.engine_input(),
                io.Float.Input(
                    "minimum_confidence", default=0.8, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="Lines of the image before that are read with less confidence do not count.",
                ),
            ],
            outputs=[
                io.Float.Output("ocr_a", display_name="OCR-A", tooltip="0: no text is left, 1: all of it. 1 without text."),
                io.String.Output("report", display_name="report", tooltip="Every line before and after, with its ratio."),
                io.Image.Output("marked", display_name="image", tooltip="The image after; changed lines in red."),
                io.Mask.Output("changed", display_name="mask", tooltip="White where a line has changed."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, before: Tensor, after: Tensor, engine: str, minimum_confidence: float = 0.8) -> io.NodeOutput:
        if len(before) != len(after):
            raise ImageError(f"There are {len(before)} images before and {len(after)} after: give as many.")
        reader = ocr.open_reader(engine, folders.ocr_models(engine))
        pictures, masks, scores, report = [], [], [], []
        move = Progress(cls.hidden.unique_id)
        firsts, seconds = (tensors.from_comfy(image)[:, :3].cpu().split(1) for image in (before, after))
        for i, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
            check_aspect(first, second, "image before", "image after")
            size = (second.shape[2], second.shape[3])
            first = first if first.shape == second.shape else resize_image(first, size)
            pairs = ocr.compare_text(first, second, reader, minimum=minimum_confidence)
            changed = [pair.ratio < 1 for pair in pairs]
            boxes = [pair.before.box for pair in pairs]
            pictures.append(
                overlays.draw_boxes(second, boxes, [overlays.RED if c else overlays.GREEN for c in changed])
            )
            masks.append(overlays.box_mask([box for box, c in zip(boxes, changed, strict=True) if c], size))
            scores.append(score := ocr.score_pairs(pairs))
            found = (
                "no text"
                if score is None
                else f"{format_score(score)}, {sum(changed)} of {count_nouns(len(pairs), 'line')} changed"
            )
            report += [f"Image {i + 1}: {found}", *(format_pair(number, pair) for number, pair in enumerate(pairs, 1))]
            move(i + 1, len(after))
        total = ocr.average_scores(scores)
        head = (
            "No text" if total is None else f"{format_score(total)}, {count_nouns(total.pictures, 'image')} with text"
        )
        return io.NodeOutput(
            1.0 if total is None else total.ocr_a,
            BREAK.join([f"{head} ({reader.label})", *report]),
            tensors.to_comfy(torch.cat(pictures)),
            tensors.to_mask(torch.cat(masks)),
        )


def count_nouns(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_score(score: ocr.Score) -> str:
    return f"OCR-A {score.ocr_a:.3f} (strict {score.strict:.3f})"


def format_pair(number: int, pair: ocr.Pair) -> str:
    if pair.ratio == 1:
        return f"{number:4d}  1.000  {pair.before.text}"
    return f"{number:4d}  {pair.ocr_a:.3f}  {pair.before.text}  ->  {pair.after.text}"
