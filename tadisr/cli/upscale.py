"""`python -m tadisr upscale`: while one image runs, the next is read and the last is written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from ..config import SCALE
from ..devices import choose_placement
from ..errors import TADiSRError
from ..images.metadata import Metadata
from ..images.read import Frame, read_frames
from ..images.resample import output_size
from ..images.tensors import to_tensor
from ..images.write import FORMATS, QUALITY, Writer, check_size, format_of, open_writer, to_levels
from ..inference import color
from ..inference.tiling import BLENDS, Strip, Tiling, fit_overlap
from ..inference.upscale import load, upscale_strips
from ..ocr import ENGINES, open_reader
from ..visualization.contact_sheet import ContactSheet
from .files import ArgumentsError, Job, Plan, certainty_of, make_plan, mask_of, sheet_of, summarize_left_out

T = TypeVar("T")
FAILURES = (TADiSRError, OSError, MemoryError, RuntimeError)
WAITING = 4  # strips that may wait to be written


def add(commands: Any) -> argparse.ArgumentParser:
    up = commands.add_parser("upscale", help="upscale files, folders or globs")
    up.add_argument("inputs", nargs="+", metavar="IN", help="a picture, a folder (searched deeply) or a glob")
    up.add_argument(
        "-o", "--out", required=True, type=output_path, help="a folder; for one picture also NAME.png, .jpg ..."
    )
    up.add_argument("--format", choices=list(FORMATS), help="of the results (default: by the ending of -o, else png)")
    up.add_argument("--quality", type=int, help=f"of JPEG, WebP, AVIF: 1 to 100 (default {QUALITY}; WebP: lossless)")
    up.add_argument("--overwrite", action="store_true", help="results may replace the inputs themselves")
    up.add_argument("--skip-existing", action="store_true", help="leave out what has a result already")
    up.add_argument("--scale", type=float, default=SCALE, help="magnification, 1 to 4 (default 4)")
    up.add_argument("--tile", type=int, default=Tiling.tile, help="tile side in pixels of the 4x picture (default 768)")
    up.add_argument(
        "--overlap", type=int, help=f"pixels two tiles share (default {Tiling.overlap}, at most half a tile)"
    )
    up.add_argument("--batch", type=int, default=1, help="tiles run at once (default 1)")
    up.add_argument("--color", choices=color.MODES, default="off", help="match the input's colours (default off)")
    up.add_argument("--fidelity", type=float, default=0.0, help="share of the input kept outside the text (default 0)")
    up.add_argument(
        "--detail", type=float,
        help="0 to 1: how much is kept of what a model with a certainty output is not sure of (default: the model's)",
    )  # fmt: skip
    up.add_argument(
        "--text-guard", nargs="?", const="auto", choices=["auto", *ENGINES], metavar="ENGINE",
        help="blend lines back to the enlargement that an OCR engine reads differently after upscaling: auto (default), "
        f"{' or '.join(ENGINES)}; needs the extra ocr",
    )  # fmt: skip
    up.add_argument("--ocr-models", type=Path, metavar="FOLDER", help="models of the text guard's engine")
    up.add_argument("--blend", choices=list(BLENDS), default="cosine", help="across the overlap (default cosine)")
    up.add_argument("--text-aware", action="store_true", help="lay the seams between tiles where there is least text")
    up.add_argument("--prompt", type=Path, help="a prompt file instead of the prompt that the adapter carries")
    up.add_argument("--mask", action="store_true", help="write the text mask beside each picture, NAME_mask.png")
    up.add_argument(
        "--certainty", action="store_true",
        help="write how sure the network is of each pixel, NAME_certainty.png, white where it is sure",
    )  # fmt: skip
    up.add_argument("--compare", action="store_true", help="write input, result and mask as one, NAME_compare.jpg")
    up.add_argument("--quiet", action="store_true", help="print errors only")
    up.add_argument("--json", action="store_true", help="print the summary as JSON")
    up.set_defaults(run=run)
    return up


def output_path(text: str) -> Path:
    """The argument of -o. An empty one is a script's unset variable, not the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a folder or a file")
    return Path(text)


@dataclass
class Summary:
    """What became of every file."""

    written: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 if an image failed. Raises TADiSRError; ArgumentsError before any work."""
    plan = make_plan(
        arguments.inputs, arguments.out, kind=arguments.format, mask=arguments.mask, certainty=arguments.certainty,
        sheet=arguments.compare, overwrite=arguments.overwrite, skip_existing=arguments.skip_existing,
    )  # fmt: skip
    if arguments.quality is not None and not 1 <= arguments.quality <= 100:
        raise ArgumentsError(f"quality is {arguments.quality}, expected 1 to 100.")
    overlap = fit_overlap(arguments.tile, Tiling.overlap) if arguments.overlap is None else arguments.overlap
    tiling = Tiling(
        tile=arguments.tile,
        overlap=overlap,
        batch=arguments.batch,
        blend=arguments.blend,
        text_aware=arguments.text_aware,
    )
    summary = Summary(skipped=[str(path) for path in plan.skipped])
    summary.left_out = {reason: [str(path) for path in paths] for reason, paths in plan.left_out.items()}
    if plan.jobs:
        device, dtype = choose_placement(arguments)
        model = load(
            arguments.model, base=arguments.base, vae=arguments.vae, prompt=arguments.prompt, device=device, dtype=dtype,
            strength=arguments.strength,
        )  # fmt: skip
        if arguments.certainty and not model.gives_certainty:
            raise ArgumentsError(f"The {model.config.name} model has no certainty output: leave out --certainty.")
        guard = None if arguments.text_guard is None else open_reader(arguments.text_guard, arguments.ocr_models)
        make_strips = partial(
            upscale_strips, model, scale=arguments.scale, tiling=tiling, fidelity=arguments.fidelity,
            detail=arguments.detail, color_fix=arguments.color, text_guard=guard,
        )  # fmt: skip
        upscale_files(plan, make_strips, arguments, summary)
    report(summary, plan, arguments)
    return 1 if summary.failed else 0


def report(summary: Summary, plan: Plan, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(vars(summary), indent=2))
    elif not arguments.quiet:
        skipped = f", {len(plan.skipped)} skipped, which exist" if plan.skipped else ""
        print(
            f"{len(summary.written)} of {len(plan.jobs)} pictures upscaled into {arguments.out}{skipped}."
            f"{summarize_left_out(plan.left_out)}"
        )


def upscale_files(
    plan: Plan, make_strips: Callable[..., Iterator[Strip]], arguments: argparse.Namespace, summary: Summary
) -> None:
    """Run every job; failures are noted, and said at once."""
    hidden = True if arguments.quiet or arguments.json else None
    with WriterThread() as thread, tqdm(total=len(plan.jobs), unit="picture", disable=hidden) as bar:

        def fail(job: Job, error: BaseException) -> None:
            summary.failed.append({"input": str(job.source), "error": str(error)})
            bar.write(f"failed: {job.source}: {error}", file=sys.stderr)

        def say(text: str) -> None:
            bar.write(text, file=sys.stderr)

        result: Result | None = None
        for job, frame, error in read_ahead(all_frames(plan.jobs)):
            bar.set_postfix_str(job.source.name)
            if result is None or result.job is not job:
                result = Result(job, arguments, thread, fail, summary)
            try:
                if error is not None:
                    raise error
                if frame is not None and not result.failed:
                    result.add(frame, partial(make_strips, say=say))
                    if frame.index + 1 == frame.count:
                        result.close()
            except FAILURES as failure:
                result.fail(failure)
            except BaseException:
                result.abandon()
                raise
            if frame is None or frame.index + 1 == frame.count:
                bar.update()


def all_frames(jobs: Iterable[Job]) -> Iterator[tuple[Job, Frame | None, Exception | None]]:
    """Every frame of every job, or the error that reading it ended in."""
    for job in jobs:
        try:
            for frame in read_frames(job.source):
                yield job, frame, None
        except FAILURES as error:
            yield job, None, error


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        last = object()
        coming = pool.submit(next, items, last)
        while (item := coming.result()) is not last:
            coming = pool.submit(next, items, last)
            yield item  # pyright: ignore[reportReturnType]


class WriterThread:
    """Runs calls in order in one thread; `submit` waits while WAITING of them are not done."""

    def __enter__(self) -> WriterThread:
        self.pool, self.room = ThreadPoolExecutor(1), BoundedSemaphore(WAITING)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(wait=True)

    def submit(self, call: Callable[..., object], *arguments: Any) -> None:
        self.room.acquire()
        done: Future[object] = self.pool.submit(call, *arguments)
        done.add_done_callback(lambda _: self.room.release())


class Result:
    """The files that one input becomes: image, mask and contact sheet, written in the thread."""

    def __init__(
        self,
        job: Job,
        arguments: argparse.Namespace,
        thread: WriterThread,
        on_failure: Callable[[Job, BaseException], None],
        summary: Summary,
    ) -> None:
        self.job, self.arguments, self.thread = job, arguments, thread
        self.on_failure, self.summary = on_failure, summary
        self.kind = format_of(job.target) or "png"
        self.failed = False
        self.open: list[Writer] = []
        self.image: Writer | None = None  # where one file holds every frame
        self.paths: dict[str, list[str]] = {"output": []}

    def add(self, frame: Frame, make_strips: Callable[..., Iterator[Strip]]) -> None:
        """Upscale one frame into its files."""
        height, width, channels = frame.pixels.shape
        size = output_size(height, width, self.arguments.scale)
        check_size(self.job.target, self.kind, size[1], size[0])
        dtype = np.uint16 if frame.pixels.dtype == np.uint16 and FORMATS[self.kind].deep else np.uint8
        image = to_tensor(frame.pixels)
        writer, target = self.writer_of(frame, frame.metadata.resized((width, height), (size[1], size[0])))
        self.do(writer.begin, (*size, channels), dtype, frame.duration)
        names = {"mask": mask_of(target), "certainty": certainty_of(target)}
        maps = {
            name: self.create(path, Metadata(), "png", name=name)
            for name, path in names.items()
            if getattr(self.arguments, name)
        }
        for one in maps.values():
            self.do(one.begin, (*size, 1), np.uint8)
        sheet = ContactSheet(image, size) if self.arguments.compare else None
        for strip in make_strips(image):
            if self.failed:
                return
            self.do(lambda rows: writer.write(to_levels(rows, dtype)), strip.pixels.numpy())
            for name, one in maps.items():
                rows = getattr(strip, name)[..., None].numpy()
                self.do(lambda rows, one=one: one.write(to_levels(rows, np.uint8)), rows)
            if sheet is not None:
                sheet.add(strip)
        self.do(writer.end)
        if writer is not self.image:
            self.do(self.complete, writer)
        for one in maps.values():
            self.do(one.end)
            self.do(self.complete, one)
        if sheet is not None:
            path = sheet_of(target)
            self.paths.setdefault("sheet", []).append(str(path))
            self.do(sheet.save, path)

    def writer_of(self, frame: Frame, metadata: Metadata) -> tuple[Writer, Path]:
        """The writer that takes a frame, and the name that mask and sheet of the frame go by."""
        kind, several = FORMATS[self.kind], frame.count > 1
        animated = several and frame.duration is not None and kind.animation
        if not several:
            return self.create(self.job.target, metadata, self.kind), self.job.target
        if not animated and not kind.pages:
            target = self.job.numbered(frame.index)
            return self.create(target, metadata, self.kind), target
        if self.image is None:
            self.image = self.create(
                self.job.target, metadata, self.kind, pages=frame.count, animated=animated, loop=frame.loop
            )
        return self.image, self.job.numbered(frame.index)

    def create(self, path: Path, metadata: Metadata, kind: str, *, name: str = "output", **options: Any) -> Writer:
        writer = open_writer(path, metadata, kind=kind, quality=self.arguments.quality, **options)
        self.open.append(writer)
        self.paths.setdefault(name, []).append(str(path))
        return writer

    def do(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call in the writing thread, unless the result has failed; a failure there fails the result."""

        def run() -> None:
            if self.failed:
                return
            try:
                call(*arguments)
            except FAILURES as error:
                self.give_up(error)

        self.thread.submit(run)

    def complete(self, writer: Writer) -> None:
        writer.close()
        self.open.remove(writer)

    def close(self) -> None:
        if self.image is not None:
            self.do(self.complete, self.image)
        self.do(lambda: self.summary.written.append({"input": str(self.job.source), **self.paths}))

    def fail(self, error: BaseException) -> None:
        """Give up for an error outside the writing thread, which then removes what was begun."""
        if not self.failed:
            self.thread.submit(self.give_up, error)
            self.failed = True

    def give_up(self, error: BaseException) -> None:
        self.failed = True
        self.on_failure(self.job, error)
        self.abandon()

    def abandon(self) -> None:
        for writer in self.open:
            writer.abandon()
        self.open = []
