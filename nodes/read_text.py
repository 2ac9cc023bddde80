"""What stands in a picture, by PP-OCR."""

from __future__ import annotations

import json

import torch
from comfy_api.latest import io
from torch import Tensor

from ..tadisr import marks, ocr
from . import bridge


class TADiSRReadText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRReadText",
            display_name="Read Text (PP-OCR)",
            category=bridge.TEXT,
            description="Finds and reads the text of pictures, offline.",
            **bridge.aliases("ocr", "recognize text", "paddleocr", "rapidocr"),
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                bridge.engine_input(),
                io.Float.Input(
                    "minimum_confidence", default=0.5, min=0.0, max=1.0, step=0.05,
                    tooltip="Lines that the reader is less sure of are left out.",
                ),
            ],
            outputs=[
                io.String.Output("text", display_name="text", tooltip="The lines, an empty line between two pictures."),
                io.String.Output(
                    "as_json", display_name="json",
                    tooltip="A list for each picture: text, score and the four corners of every line.",
                ),
                io.Image.Output("boxes", display_name="image", tooltip="The pictures, the lines outlined and numbered."),
                io.Mask.Output("box_mask", display_name="mask", tooltip="White where a line stands."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(cls, image: Tensor, engine: str, minimum_confidence: float) -> io.NodeOutput:
        reader = ocr.reader(engine, bridge.ocr_models())
        pictures, masks, texts, data = [], [], [], []
        move = bridge.Progress(cls.hidden.unique_id)
        for i, picture in enumerate(bridge.from_comfy(image)[:, :3].cpu().split(1)):
            lines = [line for line in reader.read(picture) if line.score >= minimum_confidence and line.text.strip()]
            boxes = [line.box for line in lines]
            pictures.append(marks.draw_boxes(picture, boxes, [marks.GREEN] * len(boxes)))
            masks.append(marks.box_mask(boxes, (picture.shape[2], picture.shape[3])))
            texts.append("\n".join(line.text for line in lines))
            data.append([{"text": x.text, "score": round(x.score, 4), "box": x.box.round(1).tolist()} for x in lines])
            move(i + 1, len(image))
        return io.NodeOutput(
            "\n\n".join(texts),
            json.dumps(data, ensure_ascii=False),
            bridge.to_comfy(torch.cat(pictures)),
            bridge.to_mask(torch.cat(masks)),
        )
