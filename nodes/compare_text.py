"""How much of the text of one picture is still read in another: OCR-A, and the lines that changed."""

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..tadisr import ImageError, marks, ocr
from ..tadisr.image import check_aspect, resize
from . import bridge


class TADiSRCompareText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRCompareText",
            display_name="Compare Text (OCR-A)",
            category=bridge.TEXT,
            description="Reads the lines of the picture before, and the same places in the picture after, and scores how alike "
            "they are: OCR-A, the paper's measure.",
            **bridge.aliases("ocr accuracy", "ocr-a", "text score", "text diff"),
            inputs=[
                io.Image.Input("before", tooltip="The reference; of the same shape as after, of any size."),
                io.Image.Input("after", tooltip="As many pictures as before."),
                bridge.engine_input(),
                io.Float.Input(
                    "minimum_confidence", default=0.8, min=0.0, max=1.0, step=0.05, optional=True,
                    tooltip="Lines of the picture before that the reader is less sure of do not count.",
                ),
            ],
            outputs=[
                io.Float.Output("ocr_a", display_name="OCR-A", tooltip="0: no text is left, 1: all of it. 1 without text."),
                io.String.Output("report", display_name="report", tooltip="Every line before and after, with its ratio."),
                io.Image.Output("marked", display_name="image", tooltip="The picture after; changed lines in red."),
                io.Mask.Output("changed", display_name="mask", tooltip="White where a line has changed."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, before: Tensor, after: Tensor, engine: str, minimum_confidence: float = 0.8) -> io.NodeOutput:
        if len(before) != len(after):
            raise ImageError(f"There are {len(before)} pictures before and {len(after)} after: give as many.")
        reader = ocr.reader(engine, bridge.ocr_models())
        pictures, masks, scores, report = [], [], [], []
        move = bridge.Progress(cls.hidden.unique_id)
        firsts, seconds = (bridge.from_comfy(image)[:, :3].cpu().split(1) for image in (before, after))
        for i, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
            check_aspect(first, second, "picture before", "picture after")
            size = (second.shape[2], second.shape[3])
            first = first if first.shape == second.shape else resize(first, size)
            pairs = ocr.compare(first, second, reader, minimum=minimum_confidence)
            changed = [pair.ratio < 1 for pair in pairs]
            boxes = [pair.before.box for pair in pairs]
            pictures.append(marks.draw_boxes(second, boxes, [marks.RED if c else marks.GREEN for c in changed]))
            masks.append(marks.box_mask([box for box, c in zip(boxes, changed, strict=True) if c], size))
            scores.append(score := ocr.score(pairs))
            found = "no text" if score is None else f"{say(score)}, {sum(changed)} of {len(pairs)} lines changed"
            report += [f"Picture {i + 1}: {found}", *(describe(number, pair) for number, pair in enumerate(pairs, 1))]
            move(i + 1, len(after))
        total = ocr.total(scores)
        head = "No text" if total is None else f"{say(total)}, {total.pictures} pictures with text"
        return io.NodeOutput(
            1.0 if total is None else total.ocr_a,
            "\n".join([f"{head} ({reader.label})", *report]),
            bridge.to_comfy(torch.cat(pictures)),
            bridge.to_mask(torch.cat(masks)),
        )


def say(score: ocr.Score) -> str:
    return f"OCR-A {score.ocr_a:.3f} (strict {score.strict:.3f})"


def describe(number: int, pair: ocr.Pair) -> str:
    if pair.ratio == 1:
        return f"{number:4d}  1.000  {pair.before.text}"
    return f"{number:4d}  {pair.ocr_a:.3f}  {pair.before.text}  ->  {pair.after.text}"
