"""Upscale in strips, or in memory, with smaller tiles when memory runs out."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import OutOfMemoryError
from ..model import TADiSR
from ..ocr import Reader
from ..out_of_memory import free_memory, out_of_memory_reason
from .tiling import Strip, Tiling, choose_tiling
from .upscale import Options, Upscaled, upscale
from .upscaling import STRIP, Upscaling

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

SMALLEST_TILE = 128  # below this a tile is all border


@torch.inference_mode()
def upscale_strips(
    model: TADiSR,
    image: Tensor,
    *,
    tiling: Tiling | None = None,
    color_fix: str = "off",
    text_guard: Reader | None = None,
    say: Callable[[str], object] = log.warning,
    **options: Unpack[Options],
) -> Iterator[Strip]:
    """Upscale as `upscale_in_memory` does, and yield the result in strips from top to bottom as they are finished.

    No more than a row of tiles is held; with a colour fix or a text guard, which need the whole result first, that lies
    in a temporary file. Memory that does not suffice is answered by smaller tiles until the first strip is given.
    """
    tiling = tiling or choose_tiling(model.config)
    if color_fix != "off" or text_guard is not None:
        with tempfile.TemporaryDirectory(prefix="tadisr-") as folder:
            result = upscale_in_memory(
                model,
                image,
                tiling=tiling,
                color_fix=color_fix,
                text_guard=text_guard,
                say=say,
                allocate=allocate_in(folder),
                **options,
            )
            maps = [result.mask] if result.certainty is None else [result.mask, result.certainty]
            for i in range(len(result.image)):
                for top in range(0, result.image.shape[2], STRIP):
                    rows = [part[i, :, top : top + STRIP].permute(1, 2, 0) for part in (result.image, *maps)]
                    yield Strip(i, top, rows[0], torch.cat(rows[1:], 2))
        return
    while True:
        given = False
        try:
            job = Upscaling(model, image, tiling=tiling, **options)
            for strip in job.strips():
                pieces = strip.cut(STRIP)
                del strip
                for piece in pieces:
                    job.finish(piece)
                    given = True
                    yield piece
                del pieces
            return
        except Exception as error:
            reason = out_of_memory_reason(error)
            if reason is None:
                raise
        job = None  # outside of the except block: the error's frames hold the tensors of the failed attempt
        free_memory()
        if given:
            raise OutOfMemoryError(
                f"Memory ran out when a part of the image was given already ({reason}): set tile to less than {tiling.tile}."
            )
        tiling = make_smaller(tiling, reason, image, say)


def allocate_in(folder: str) -> Callable[[tuple[int, ...]], Tensor]:
    """Return an `allocate` for `upscale` that maps zeros from files of a folder into memory."""

    def allocate(shape: tuple[int, ...]) -> Tensor:
        handle, path = tempfile.mkstemp(dir=folder)
        os.close(handle)
        return torch.from_numpy(np.memmap(path, np.float32, "w+", shape=shape))

    return allocate


def upscale_in_memory(
    model: TADiSR,
    image: Tensor,
    *,
    tiling: Tiling | None = None,
    color_fix: str = "off",
    text_guard: Reader | None = None,
    allocate: Callable[[tuple[int, ...]], Tensor] = torch.zeros,
    say: Callable[[str], object] = log.warning,
    **options: Unpack[Options],
) -> Upscaled:
    """Upscale as `upscale` does; where memory runs out, again with one tile at a time, then with tiles of half the side.

    One tile at a time gives the same image. Smaller tiles do not quite: the network normalises over a tile, which moves
    pixels by .003 in the mean, a few by .07. say: called with one sentence at each attempt, which says so.
    Raises OutOfMemoryError where the smallest tile does not fit either.
    """
    tiling = tiling or choose_tiling(model.config)
    while True:
        try:
            return upscale(
                model, image, tiling=tiling, color_fix=color_fix, text_guard=text_guard, say=say, allocate=allocate,
                **options,
            )  # fmt: skip
        except Exception as error:
            reason = out_of_memory_reason(error)
            if reason is None:
                raise
        free_memory()  # outside of the except block: the error's frames hold the tensors of the failed attempt
        tiling = make_smaller(tiling, reason, image, say)


def make_smaller(tiling: Tiling, reason: str, image: Tensor, say: Callable[[str], object]) -> Tiling:
    """Make the next smaller tiling to try when memory ran out, and report it. Raises OutOfMemoryError after the smallest
    one.
    """
    if tiling.batch > 1:
        smaller = replace(tiling, batch=1)
        what = "one tile at a time, which gives the same image"
    elif tiling.tile // 2 >= SMALLEST_TILE:
        smaller = replace(tiling, tile=tiling.tile // 2, overlap=min(tiling.overlap, tiling.tile // 4))
        what = (
            f"tiles of {smaller.tile}, overlap {smaller.overlap}: the image differs a little from one in larger tiles; to have "
            f"it so from the start, set tile to {smaller.tile}"
        )
    else:
        raise OutOfMemoryError(
            f"Memory does not suffice for an image of {image.shape[-1]}x{image.shape[-2]} in tiles of {tiling.tile} either "
            f"({reason}). Free memory, set dtype to fp16 or bf16, upscale a smaller image or fewer at once, or use the CPU."
        )
    say(f"Out of memory: going on with {what}.")
    return smaller
