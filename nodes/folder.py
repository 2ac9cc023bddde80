"""Upscaling a folder of image files into another one, file by file."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from comfy_api.latest import io

from ..tadisr import TADiSRError
from ..tadisr.files.plan import Job, Plan, make_plan
from ..tadisr.files.upscale import Results, Watcher, summarize, upscale_files
from ..tadisr.images.write import FORMATS
from ..tadisr.inference.color import MODES
from ..tadisr.inference.tiling import Tiling
from ..tadisr.inference.time_left import format_duration
from ..tadisr.inference.upscale_strips import upscale_strips
from .host import image_folders, schema
from .host.checked_node import Node
from .host.model_management import Loaded, in_memory
from .host.progress import Progress, message_sender, show_text
from .host.tiles import MODEL_TOO_LARGE, make_tiling

log = logging.getLogger("tadisr")

STEPS = 1000  # of the bar for one file


class TADiSRUpscaleFolder(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TADiSRUpscaleFolder",
            display_name="Upscale Folder with TADiSR",
            category=schema.CATEGORY,
            description="Upscales every image file of a folder into another folder, one after the other: names and subfolders "
            "are kept, each image keeps its own size, and a run that was cancelled or killed resumes where it was.",
            **schema.search_aliases(
                "batch folder", "directory", "load images from folder", "super resolution", "upscale files"
            ),
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "input_folder",
                    default="pictures",
                    tooltip="A folder within ComfyUI's input folder; folders within it are searched too.",
                ),
                io.String.Input(
                    "output_folder",
                    default="TADiSR_folder",
                    tooltip="A folder within ComfyUI's output folder. It is made if it is missing.",
                ),
                schema.Model.Input("model", tooltip="From Load TADiSR Model."),
                schema.scale_input(),
                io.Combo.Input(
                    "format", options=list(FORMATS), default="png",
                    tooltip="Of the results. png and tif keep 16 bits and transparency; jpg does not.",
                ),
                io.Boolean.Input(
                    "skip_existing", default=True,
                    tooltip="Leave out images whose result exists: a second run does only what is new. Off: make all anew.",
                ),
                io.Boolean.Input(
                    "write_masks", default=False, tooltip="Write the text mask beside each result, NAME_mask.png."
                ),
                schema.fold_away(schema.tile_input()),
                schema.fold_away(schema.overlap_input()),
                schema.fold_away(schema.tile_batch_input("tile_batch")),
                schema.fold_away(
                    io.Combo.Input(
                        "color", options=list(MODES), default="off",
                        tooltip="Bring the colours back to the input's, as in Upscale with TADiSR.",
                    )
                ),
                schema.fold_away(
                    io.Int.Input(
                        "quality", default=95, min=1, max=100, tooltip="Of jpg, webp and avif; png and tif lose nothing."
                    )
                ),
                schema.tiling_input(),
                schema.fold_away(schema.fidelity_input()),
                schema.fold_away(schema.detail_input()),
            ],
            outputs=[
                io.String.Output("folder", display_name="folder", tooltip="The whole path of the output folder."),
                io.String.Output("report", display_name="report", tooltip="How many were upscaled, skipped, failed, and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Look into the folder at every run: NaN equals nothing."""
        return float("nan")

    @classmethod
    def execute(
        cls,
        input_folder: str,
        output_folder: str,
        model: Loaded,
        scale: float,
        format: str,
        skip_existing: bool,
        write_masks: bool,
        tile: int,
        overlap: int,
        tile_batch: int,
        color: str,
        quality: int,
        tiling: Tiling | None = None,
        fidelity: float = 0.0,
        detail: float = schema.DETAIL,
    ) -> io.NodeOutput:
        tell = message_sender(cls.hidden.unique_id)
        tiling = tiling or make_tiling(tell, tile=tile, overlap=overlap, model=model, batch=tile_batch)
        source, out = image_folders.input_folder(input_folder), image_folders.output_folder(output_folder)
        plan = make_plan([str(source)], out, kind=format, mask=write_masks, skip_existing=skip_existing)
        results = Results(scale, quality, mask=write_masks)
        lines = FileLines(cls.hidden.unique_id, plan, source)
        with in_memory(model, "all", pixels=tiling.pixels, advice=MODEL_TOO_LARGE) as network:
            make_strips = partial(
                upscale_strips, network, scale=scale, tiling=tiling, fidelity=fidelity, detail=detail, color_fix=color,
                device=model.load_device, progress=lines.move, preview=lines.progress.preview,
            )  # fmt: skip
            summary = upscale_files(plan, make_strips, results, lines)
        report = summarize(summary, plan, out)
        log.info(report)
        show_text(cls.hidden.unique_id, report)
        if summary.failed and not summary.written:
            raise TADiSRError(report)
        return io.NodeOutput(str(out), report)


class FileLines(Watcher):
    """One line of the log for each file; bar, preview and count on the node."""

    def __init__(self, node_id: str, plan: Plan, source: Path) -> None:
        self.node_id, self.source = node_id, source
        self.numbers = {job.source: number for number, job in enumerate(plan.jobs, 1)}
        self.progress = Progress(node_id)
        self.begun: dict[Path, float] = {}

    def begin(self, job: Job) -> None:
        self.number = self.numbers[job.source]
        self.begun[job.source] = time.monotonic()
        self.move(0, 1)

    def move(self, done: int, total: int) -> None:
        """Count tiles of the current file."""
        count = len(self.numbers)
        self.progress(round(STEPS * (self.number - 1 + done / total)), STEPS * count)
        share = (self.number - 1 + done / total) / count
        text = f"Image {self.number} of {count}"
        if total > 1:
            text += f", tile {done} of {total}"
        if share > 0:
            text += f", {format_duration(self.progress.time.seconds(share))} left"
        show_text(self.node_id, text)

    def name(self, job: Job) -> str:
        return f"{self.numbers[job.source]} of {len(self.numbers)}: {job.source.relative_to(self.source)}"

    def written(self, job: Job) -> None:
        log.info("%s, %s", self.name(job), format_duration(time.monotonic() - self.begun.pop(job.source)))

    def failed(self, job: Job, error: BaseException) -> None:
        log.warning("%s failed: %s", self.name(job), error)

    def say(self, text: str) -> None:
        log.warning(text)
