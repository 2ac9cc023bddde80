"""Upscale the files of a plan: while one image runs, the next is read and the last is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, TypeVar

import numpy as np

from ..config import SCALE
from ..errors import ConfigError, TADiSRError
from ..images.metadata import Metadata
from ..images.read import Frame, read_frames
from ..images.resample import output_size
from ..images.tensors import to_tensor
from ..images.write import FORMATS, Writer, check_size, find_format, open_writer, to_levels
from ..inference.tiling import Strip
from ..visualization.contact_sheet import ContactSheet
from .plan import Job, Plan, certainty_of, mask_of, sheet_of, summarize_left_out

log = logging.getLogger(__name__)

T = TypeVar("T")
FAILURES = (TADiSRError, OSError, MemoryError, RuntimeError)
WAITING = 4  # strips that may wait to be written


@dataclass(frozen=True)
class Results:
    """Options of the written files. quality: of JPEG, WebP, AVIF; mask, certainty, sheet: beside it. Raises ConfigError."""

    scale: float = SCALE
    quality: int | None = None
    mask: bool = False
    certainty: bool = False
    sheet: bool = False

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ConfigError(f"quality is {self.quality}, expected 1 to 100.")


@dataclass
class Summary:
    """The outcome of every file."""

    written: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: Plan) -> Summary:
        left_out = {reason: [str(path) for path in paths] for reason, paths in plan.left_out.items()}
        return cls(skipped=[str(path) for path in plan.skipped], left_out=left_out)


class Watcher:
    """Receives what happens to each file; does nothing. `written` and `failed` may be called in the writing thread."""

    def begin(self, job: Job) -> None: ...

    def end(self, job: Job) -> None: ...

    def written(self, job: Job) -> None: ...

    def failed(self, job: Job, error: BaseException) -> None: ...

    def say(self, text: str) -> None:
        log.warning(text)


def upscale_files(
    plan: Plan, make_strips: Callable[..., Iterator[Strip]], results: Results, watcher: Watcher | None = None
) -> Summary:
    """Run every job of a plan; a file that fails is noted, and the next one follows.

    make_strips(image (1, C, h, w), say=...) -> strips, as `upscale_strips` gives them. What it raises beside FAILURES
    ends the run: files that are complete stay, nothing half written does.
    """
    summary, watcher = Summary.of_plan(plan), watcher or Watcher()
    with WriterThread() as thread:
        result: Result | None = None
        for job, frame, error in read_ahead(all_frames(plan.jobs)):
            if result is None or result.job is not job:
                watcher.begin(job)
                result = Result(job, results, thread, summary, watcher)
            try:
                if error is not None:
                    raise error
                if frame is not None and not result.failed:
                    result.add(frame, partial(make_strips, say=watcher.say))
                    if frame.index + 1 == frame.count:
                        result.close()
            except FAILURES as failure:
                result.fail(failure)
            except BaseException:
                result.abandon()
                raise
            if frame is None or frame.index + 1 == frame.count:
                watcher.end(job)
    return summary


def summarize(summary: Summary, plan: Plan, out: Path) -> str:
    """Summarize how many images were upscaled, skipped and left out in one sentence, with a line for each that failed."""
    skipped = f", {len(plan.skipped)} skipped, which exist" if plan.skipped else ""
    lines = [
        f"{len(summary.written)} of {len(plan.jobs)} images upscaled into {out}{skipped}."
        f"{summarize_left_out(plan.left_out)}"
    ]
    return "\n".join(lines + [f"failed: {one['input']}: {one['error']}" for one in summary.failed])


def all_frames(jobs: Iterable[Job]) -> Iterator[tuple[Job, Frame | None, Exception | None]]:
    """Yield every frame of every job, or the error that reading it ended in."""
    for job in jobs:
        try:
            for frame in read_frames(job.source):
                yield job, frame, None
        except FAILURES as error:
            yield job, None, error


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the same items, each made in a thread while the one before it is used."""
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

    def __init__(self, job: Job, results: Results, thread: WriterThread, summary: Summary, watcher: Watcher) -> None:
        self.job, self.results, self.thread = job, results, thread
        self.summary, self.watcher = summary, watcher
        self.kind = find_format(job.target) or "png"
        self.failed = False
        self.open: list[Writer] = []
        self.image: Writer | None = None  # where one file holds every frame
        self.first: Writer | None = None  # completed last: where its file exists, all of this result does
        self.paths: dict[str, list[str]] = {"output": []}

    def add(self, frame: Frame, make_strips: Callable[..., Iterator[Strip]]) -> None:
        """Upscale one frame into its files."""
        height, width, channels = frame.pixels.shape
        size = output_size(height, width, self.results.scale)
        check_size(self.job.target, self.kind, size[1], size[0])
        dtype = np.uint16 if frame.pixels.dtype == np.uint16 and FORMATS[self.kind].deep else np.uint8
        image = to_tensor(frame.pixels)
        writer, target = self.writer_of(frame, frame.metadata.resize_metadata((width, height), (size[1], size[0])))
        self.first = self.first or writer
        self.do(writer.begin, (*size, channels), dtype, frame.duration)
        names = {"mask": mask_of(target), "certainty": certainty_of(target)}
        maps = {
            name: self.create(path, Metadata(), "png", name=name)
            for name, path in names.items()
            if getattr(self.results, name)
        }
        for one in maps.values():
            self.do(one.begin, (*size, 1), np.uint8)
        sheet = ContactSheet(image, size) if self.results.sheet else None
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
        if writer is not self.first:
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
        writer = open_writer(path, metadata, kind=kind, quality=self.results.quality, **options)
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
        assert self.first is not None
        self.do(self.complete, self.first)
        self.do(self.note)

    def note(self) -> None:
        self.summary.written.append({"input": str(self.job.source), **self.paths})
        self.watcher.written(self.job)

    def fail(self, error: BaseException) -> None:
        """Give up for an error outside the writing thread, which then removes what was begun."""
        if not self.failed:
            self.thread.submit(self.give_up, error)
            self.failed = True

    def give_up(self, error: BaseException) -> None:
        self.failed = True
        self.summary.failed.append({"input": str(self.job.source), "error": str(error)})
        self.watcher.failed(self.job, error)
        self.abandon()

    def abandon(self) -> None:
        for writer in self.open:
            writer.abandon()
        self.open = []
