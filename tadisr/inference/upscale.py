"""Upscale images and find their text: enlarge, tile, run the network, blend, correct the colours.

The result is added up at the size asked for, in place or in strips from top to bottom: beside input and output only a
few tiles are held.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints import adapter
from ..checkpoints.base_model import load_base
from ..config import SCALE
from ..errors import CheckpointError, ConfigError, ImageError, OutOfMemoryError, ResultError
from ..images.alpha import Layers, laid_on_ground, split_alpha, split_layers, varies
from ..images.resample import Span, output_size, pad_to_multiple, resize, resize_window, shrink, source_span
from ..model import TADiSR
from ..model.certainty import certainty_map, keep_sure_detail
from ..model.precision import compute_type
from ..ocr import Reader
from ..out_of_memory import free_memory, out_of_memory_reason
from ..prompt import read_prompt
from . import color
from .mask_edits import merge_edits
from .preview import Preview
from .text_guard import guard_text, summarize
from .tiling import Strip, Tile, Tiling, Window, blend_tiles, cropped, inside, place_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

log = logging.getLogger(__name__)

COMPACT = Path(__file__).parents[1] / "weights" / "compact.safetensors"
DEFAULT_TILING = Tiling()
SMALLEST_TILE = 128  # below this a tile is all border
STRIP = 64  # rows of a finished result that are given at a time

Progress = Callable[[int, int], None]


class Options(TypedDict, total=False):
    """Parameters of `upscale` that its variants pass on."""

    scale: float
    enlarged: Tensor | None
    guide: Tensor | None
    fidelity: float
    detail: float | None
    device: torch.device | None
    progress: Progress | None
    preview: Callable[[Tensor], object] | None


@dataclass(frozen=True)
class Upscaled:
    """float32 on the CPU, in [0, 1].

    The mask is all zero for a model without the joint decoders; certainty is None for one without that output.
    """

    image: Tensor  # (B, C, sH, sW), as many channels as came in
    mask: Tensor  # (B, 1, sH, sW), the probability of text
    certainty: Tensor | None = None  # (B, 1, sH, sW), 1 where the network is sure of what it drew


def load(
    path: str | Path | None = None,
    *,
    base: str | Path | None = None,
    vae: str | Path | None = None,
    prompt: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    strength: float = 1.0,
) -> TADiSR:
    """A model ready to run: the compact one that ships with the pack, or any checkpoint of ours.

    base, vae: the frozen base of an adapter, as `load_base` takes it: a folder, or a file each. dtype: of the weights,
    None: float32; with float8_e4m3fn the denoiser's matrices are stored in it and computed in bf16 or fp16 on a GPU, in
    fp32 on a CPU. strength: of the adapter's LoRA. prompt: a prompt file that replaces the one it carries. Raises
    CheckpointError.
    """
    path = COMPACT if path is None else Path(path)
    config = adapter.read_config(path)
    if config.lora is None and (base is not None or vae is not None):
        raise CheckpointError(f"{path} stands alone, it is no adapter: leave out the base {base or vae}.")
    dtype = dtype or torch.float32
    compute = compute_type(dtype, device)
    if config.lora is not None:
        model = load_base(base, config, vae=vae, dtype=dtype, compute=compute, empty=True)
    else:
        with torch.device("meta"):
            model = TADiSR(config)
    encoded = None if prompt is None else read_prompt(prompt)
    adapter.load_tensors(model, path, dtype=dtype, compute=compute, strength=strength, prompt=encoded)
    return model.to(device=device).eval().requires_grad_(False)


@torch.inference_mode()
def upscale(
    model: TADiSR,
    image: Tensor,
    *,
    scale: float = SCALE,
    tiling: Tiling = DEFAULT_TILING,
    enlarged: Tensor | None = None,
    guide: Tensor | None = None,
    fidelity: float = 0.0,
    detail: float | None = None,
    color_fix: str = "off",
    text_guard: Reader | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    preview: Callable[[Tensor], object] | None = None,
    say: Callable[[str], object] = log.info,
    allocate: Callable[[tuple[int, ...]], Tensor] = torch.zeros,
) -> Upscaled:
    """Upscale a batch of images tile by tile.

    image: (B, C, h, w) in [0, 1], what lies outside is clamped, or levels in uint8 or uint16; C is 1 (grey), 2 (grey,
    alpha), 3 or 4 (RGBA). RGB of three equal channels stays grey. Colours are grown into transparent parts first; where
    alpha is not constant it is upscaled as an image of its own, and its text joins the mask.
    scale: 1 to 4; the network magnifies by 4, less is an exact resize of that. enlarged (B, 3, 4h, 4w): the image
    already brought to that size, fed as it is instead of a bicubic enlargement. guide (B or 1, 1, h', w') in [0, 1]:
    an edited text mask of any size that steers the decoders where it differs from the model's own by more than resizing
    does; a model whose trunk takes no guide then runs twice. fidelity: 0 to 1, how much of the input outside the text
    stays as it was, only enlarged. detail: 0 to 1, how much of what a model with a certainty output is not sure of is
    kept (`keep_sure_detail`); None: the model's default. color_fix: off, adain, wavelet or lab, against the input.
    text_guard: an OCR engine; lines that it reads differently in the result than in the plain enlargement are blended
    back (`guard_text`), and how many is given to `say`.
    progress(done, total) counts tiles after every batch of them; raise inside it to cancel. preview: gets a small
    (1, 3, h", w") of what is done so far, just before each call of progress. allocate: makes the result's tensors,
    zeros of a shape.
    Raises ImageError, ConfigError.
    """
    if guide is not None and not model.takes_guide:  # steering costs dozens of decodings: only for what was edited
        guide = checked_guide(guide, len(image))
        plain = upscale(
            model, image, scale=scale, tiling=tiling, enlarged=enlarged, fidelity=fidelity, detail=detail,
            color_fix=color_fix, text_guard=text_guard, device=device, progress=progress, preview=preview, say=say,
            allocate=allocate,
        )  # fmt: skip
        guide = merge_edits(plain.mask, guide)
        if guide is None:
            return plain
        del plain
    job = Upscaling(
        model, image, scale, tiling, enlarged, guide, fidelity, detail, color_fix, device, progress, preview
    )  # fmt: skip
    pixels = allocate((len(image), *job.size, image.shape[1]))
    maps = allocate((len(image), *job.size, job.channels[1]))
    for strip in job.strips((pixels, maps)):
        if color_fix == "off":
            job.finish(strip)
        if strip.top + len(strip.maps) < job.size[0]:
            continue
        if color_fix != "off":
            job.correct(strip.image, pixels[strip.image], maps[strip.image])
        if text_guard is not None:
            say(job.guard(strip.image, pixels[strip.image], text_guard))
    maps = maps.permute(0, 3, 1, 2)
    return Upscaled(pixels.permute(0, 3, 1, 2), maps[:, :1], maps[:, 1:] if model.gives_certainty else None)


@torch.inference_mode()
def upscale_strips(
    model: TADiSR,
    image: Tensor,
    *,
    tiling: Tiling = DEFAULT_TILING,
    color_fix: str = "off",
    text_guard: Reader | None = None,
    say: Callable[[str], object] = log.warning,
    **options: Unpack[Options],
) -> Iterator[Strip]:
    """`upscale_in_memory` that gives the result in strips from top to bottom, as they are finished.

    No more than a row of tiles is held; with a colour fix or a text guard, which need the whole result first, that lies
    in a temporary file. Memory that does not suffice is answered by smaller tiles until the first strip is given.
    """
    if color_fix != "off" or text_guard is not None:
        with tempfile.TemporaryDirectory(prefix="tadisr-") as folder:
            result = upscale_in_memory(
                model,
                image,
                tiling=tiling,
                color_fix=color_fix,
                text_guard=text_guard,
                say=say,
                allocate=mapped_in(folder),
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
                job.finish(strip)
                given = True
                yield strip
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


def mapped_in(folder: str) -> Callable[[tuple[int, ...]], Tensor]:
    """`allocate` for `upscale`: zeros in files of a folder, mapped into memory."""

    def allocate(shape: tuple[int, ...]) -> Tensor:
        handle, path = tempfile.mkstemp(dir=folder)
        os.close(handle)
        return torch.from_numpy(np.memmap(path, np.float32, "w+", shape=shape))

    return allocate


def upscale_in_memory(
    model: TADiSR,
    image: Tensor,
    *,
    tiling: Tiling = DEFAULT_TILING,
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
    """The next smaller tiling to try when memory did not suffice; says so. Raises OutOfMemoryError after the smallest one."""
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


class Upscaling:
    """One call of `upscale`: its checked arguments, and what is done to each window and strip."""

    def __init__(
        self,
        model: TADiSR,
        image: Tensor,
        scale: float = SCALE,
        tiling: Tiling = DEFAULT_TILING,
        enlarged: Tensor | None = None,
        guide: Tensor | None = None,
        fidelity: float = 0.0,
        detail: float | None = None,
        color_fix: str = "off",
        device: torch.device | None = None,
        progress: Progress | None = None,
        preview: Callable[[Tensor], object] | None = None,
    ) -> None:
        check(image, scale)
        color.check_mode(color_fix)
        check_share("fidelity", fidelity)
        check_share("detail", detail)
        height, width = image.shape[-2:]
        self.full = (height * SCALE, width * SCALE)
        self.size = output_size(height, width, scale)
        self.channels = (image.shape[1], 1 + model.gives_certainty)  # of the result's pixels and maps
        if enlarged is not None and enlarged.shape != (len(image), 3, *self.full):
            found, expected = tuple(enlarged.shape), (len(image), 3, *self.full)
            raise ImageError(f"The enlarged image has shape {found}, expected {expected}.")
        self.model, self.image, self.tiling = model, image.cpu(), tiling
        self.enlarged, self.fidelity, self.detail, self.color_fix = enlarged, fidelity, detail, color_fix
        self.guide = None if guide is None else checked_guide(guide, len(image))
        self.device = device or model.device
        self.progress, self.preview = progress, preview
        self.small = Preview(split_alpha(self.image)[0])
        self.held: dict[int, Layers] = {}

    def layers(self, index: int) -> Layers:
        if index not in self.held:
            self.held[index] = split_layers(self.image[index])
        return self.held[index]

    def strips(self, out: tuple[Tensor, Tensor] | None = None) -> Iterator[Strip]:
        """Unfinished strips of every image; `out` as `blend_tiles` takes it."""
        text = None
        if self.tiling.text_aware and max(self.full) > self.tiling.tile:
            text = coarse_text(self.model, split_alpha(self.image)[0], self.tiling, self.device)
        count, _, height, width = self.image.shape
        for strip in blend_tiles(
            self.run, (count, height, width), self.channels,
            tiling=self.tiling, size=self.size, text=text, out=out, progress=self.progress,
        ):  # fmt: skip
            yield strip
            if strip.top + len(strip.maps) == self.size[0]:
                self.held.pop(strip.image, None)

    def run(self, windows: list[Window]) -> list[Tile]:
        """Upscale windows: their colours, and their alpha where it varies, `tiling.batch` at once."""
        jobs: list[tuple[Window, Callable[[Window], Tensor]]] = []
        for window in windows:
            jobs.append((window, self.enlarge_colors))
            if self.has_structure(window):
                jobs.append((window, self.enlarge_alpha))
        results = self.run_network(jobs)
        tiles = []
        for window in windows:
            layers, alpha = self.layers(window.image), None
            colors, maps = next(results)
            if self.has_structure(window):
                upscaled, others = next(results)
                alpha = laid_on_ground(upscaled.mean(0, keepdim=True), layers.dark)
                maps = torch.cat([torch.maximum(maps[:1], others[:1]), torch.minimum(maps[1:], others[1:])])
            elif layers.alpha is not None:
                alpha = resize_window(layers.alpha, self.full, *place_of(window))
            if len(layers.colors) == 1:
                colors = colors.mean(0, keepdim=True)
            tiles.append(Tile(colors, maps, alpha))
            self.show(window, tiles[-1])
        return tiles

    def has_structure(self, window: Window) -> bool:
        """Whether the window's alpha varies, so that the network is to upscale it."""
        alpha = self.layers(window.image).alpha
        if alpha is None:
            return False
        height, width = alpha.shape[1:]
        rows = inside((window.top, window.top + window.height), height)
        columns = inside((window.left, window.left + window.width), width)
        rows, columns = source_span(height, self.full[0], rows), source_span(width, self.full[1], columns)
        return varies(alpha[:, slice(*rows), slice(*columns)])

    def enlarge_colors(self, window: Window) -> Tensor:
        """What the network sees of a window, (3, 4 height, 4 width)."""
        if self.enlarged is not None:
            return cut(self.enlarged[window.image], *place_of(window))
        return resize_window(self.layers(window.image).colors, self.full, *place_of(window)).expand(3, -1, -1)

    def enlarge_alpha(self, window: Window) -> Tensor:
        """The same of its alpha, as an image of its own."""
        layers = self.layers(window.image)
        assert layers.alpha is not None
        alpha = resize_window(layers.alpha, self.full, *place_of(window))
        return laid_on_ground(alpha, layers.dark).expand(3, -1, -1)

    def run_network(self, jobs: list[tuple[Window, Callable[[Window], Tensor]]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows and what makes their inputs -> images (3, H, W) and maps (k, H, W), float32 on the CPU, one by one."""
        for first in range(0, len(jobs), self.tiling.batch):
            group = jobs[first : first + self.tiling.batch]
            images = [enlarge(window)[None] for window, enlarge in group]
            batch = torch.cat(images) if len(images) > 1 else images[0].contiguous()
            del images
            guides = None
            if self.guide is not None:
                places = [(self.guide[window.image], self.full, *place_of(window)) for window, _ in group]
                guides = torch.stack([resize_window(*place) for place in places])
            pictures, maps = run_tile(self.model, batch, self.device, guides, self.detail)
            del batch
            results = list(zip(pictures.cpu(), maps.cpu(), strict=True))
            del pictures, maps
            while results:
                yield results.pop(0)

    def show(self, window: Window, tile: Tile) -> None:
        if self.preview is None:
            return
        height, width = self.image.shape[-2:]
        rows = inside((window.top, window.top + window.height), height)
        place = rows, inside((window.left, window.left + window.width), width)
        colors = cropped(tile, window.top, window.left, place).colors.expand(3, -1, -1)
        self.preview(self.small.lay(window.image, max(0, window.top), max(0, window.left), colors))

    def finish(self, strip: Strip, correction: color.Correction | None = None) -> None:
        """Apply what is asked for beside the network, in place."""
        layers = self.layers(strip.image)
        rows = strip.pixels if layers.alpha is None else strip.pixels[..., :-1]
        if correction is not None:
            correction.apply(rows, strip.top, self.size)
        if self.fidelity:
            span = (strip.top, strip.top + len(strip.maps))
            plain = resize_window(layers.colors, self.size, span, (0, self.size[1])).permute(1, 2, 0)
            rows.lerp_(plain.expand_as(rows), self.fidelity * (1 - strip.mask[..., None]))

    def correct(self, index: int, pixels: Tensor, maps: Tensor) -> None:
        """Bring the colours of a whole result (H, W, C) to the input's, and finish it."""
        layers = self.layers(index)
        colors = pixels if layers.alpha is None else pixels[..., :-1]
        correction = color.measure_correction(self.color_fix, colors[..., : len(layers.colors)], layers.colors)
        for top in range(0, len(pixels), STRIP):
            self.finish(Strip(index, top, pixels[top : top + STRIP], maps[top : top + STRIP]), correction)

    def guard(self, index: int, pixels: Tensor, reader: Reader) -> str:
        """Blend lines of a finished result (H, W, C) back, in place. Returns a sentence on what was done."""
        layers = self.layers(index)
        colors = (pixels if layers.alpha is None else pixels[..., :-1]).permute(2, 0, 1)
        plain = resize_window(layers.colors, self.size, (0, self.size[0]), (0, self.size[1]))
        return summarize(guard_text(colors, plain.expand_as(colors), reader), reader)


def cut(whole: Tensor, rows: Span, columns: Span) -> Tensor:
    """A window of (C, H, W), whose border is repeated beyond it."""
    height, width = whole.shape[-2:]
    piece = whole[:, max(0, rows[0]) : rows[1], max(0, columns[0]) : columns[1]]
    margins = (max(0, -columns[0]), max(0, columns[1] - width), max(0, -rows[0]), max(0, rows[1] - height))
    return F.pad(piece[None], margins, mode="replicate")[0]


@torch.inference_mode()
def coarse_text(model: TADiSR, colors: Tensor, tiling: Tiling, device: torch.device) -> Tensor:
    """The text masks (B, 1, h', w') of images (B, 3, h, w) made small enough for one tile: a first look."""
    factor = min(1.0, tiling.on_lr[0] / max(colors.shape[-2:]))
    size = output_size(colors.shape[2], colors.shape[3], factor)
    small = resize(shrink(colors, size), (size[0] * SCALE, size[1] * SCALE))
    return torch.cat([run_tile(model, one, device)[1][:, :1].cpu() for one in small.split(1)])


def run_tile(
    model: TADiSR,
    tile: Tensor,
    device: torch.device,
    guide: Tensor | None = None,
    detail: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the network on a batch of upscaled tiles (n, 3, H, W) in [0, 1] of any size.

    Returns images (n, 3, H, W) and maps (n, 1 or 2, H, W), all in [0, 1]: the text mask, and the certainty where the
    model gives one.
    """
    height, width = tile.shape[-2:]
    multiple = model.config.multiple
    padded = pad_to_multiple(tile, multiple).to(device)
    output = model(padded, None if guide is None else pad_to_multiple(guide, multiple).to(device))
    picture, maps = finish_tile(model, output.image, output.mask_logits, output.log_variance, padded, detail)
    return picture[..., :height, :width], maps[..., :height, :width]


def finish_tile(
    model: TADiSR,
    image: Tensor,
    mask_logits: Tensor | None,
    log_variance: Tensor | None,
    upscaled: Tensor | None,
    detail: float | None,
) -> tuple[Tensor, Tensor]:
    """Turn what the network gives into an image (n, 3, H, W) and maps (n, 1 or 2, H, W), float32 in [0, 1].

    detail: as `upscale` takes it. Raises ResultError for NaN and infinite values.
    """
    require_finite(model, image, mask_logits, log_variance)
    maps = [torch.zeros_like(image[:, :1]).float() if mask_logits is None else mask_logits.float().sigmoid()]
    trunk = model.config.decoder.trunk
    if trunk is not None and log_variance is not None and upscaled is not None:
        image = keep_sure_detail(image, upscaled, log_variance, trunk.detail if detail is None else detail)
        maps.append(certainty_map(log_variance))
    return image.float().clamp_(0, 1), torch.cat(maps, 1)


def require_finite(model: TADiSR, *results: Tensor | None) -> None:
    """Raise ResultError for NaN or infinite values: clamped, they would be a black image."""
    if all(bool(result.isfinite().all()) for result in results if result is not None):
        return
    kind = str(model.dtype).removeprefix("torch.")
    advice = (
        "its weights are damaged, download or copy the file again"
        if model.dtype == torch.float32
        else "load it in fp32, or bf16 where the GPU has it; if that gives the same, its weights are damaged"
    )
    raise ResultError(f"The {model.config.name} model gave NaN or infinite values in {kind}: {advice}.")


def check(image: Tensor, scale: float) -> None:
    """Refuse what no upscaler could take. Raises ImageError, ConfigError."""
    if image.ndim != 4 or image.shape[1] not in (1, 2, 3, 4) or 0 in image.shape:
        raise ImageError(
            f"An image of shape {tuple(image.shape)} cannot be upscaled: expected (B, 1 to 4, h, w), not empty."
        )
    if image.dtype.is_floating_point and not all(torch.isfinite(end) for end in torch.aminmax(image)):
        raise ImageError("The image has NaN or infinite values: the node before this one went wrong.")
    if not 1 <= scale <= SCALE:
        raise ConfigError(f"scale is {scale}, expected 1 to {SCALE}.")


def check_share(name: str, value: float | None) -> None:
    """Raise ConfigError for a value outside 0 to 1; None passes."""
    if value is not None and not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}, expected 0 to 1.")


def checked_guide(guide: Tensor, batch: int) -> Tensor:
    """An edited mask (B or 1, 1, H, W) for so many images -> (batch, 1, H, W) on the CPU. Raises ImageError."""
    if len(guide) not in (1, batch) or 0 in guide.shape:
        raise ImageError(f"There are {len(guide)} masks for {batch} images: give one, or one for each, not empty.")
    if not torch.isfinite(guide).all():
        raise ImageError("The mask has NaN or infinite values: the node before this one went wrong.")
    return guide.float().cpu().clamp(0, 1).expand(batch, -1, -1, -1)
