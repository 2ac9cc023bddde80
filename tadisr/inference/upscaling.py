"""One call of `upscale`: what is done to each window and strip of the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..config import SCALE
from ..errors import ImageError
from ..images.alpha import Layers, blend_on_ground, needs_upscaling, split_alpha, split_layers
from ..images.resample import output_size, resize_window, source_span
from ..model import TADiSR
from ..ocr import Reader
from . import color
from .preview import Preview
from .run_tile import check_guide, check_image, check_share, coarse_text, cut_enlarged, run_tile
from .text_guard import guard_text, summarize
from .tiling import Strip, Tile, Tiling, Window, blend_tiles, choose_tiling, clip_span, crop_margin, span_of_window

STRIP = 64  # rows of a finished result that are given at a time

Progress = Callable[[int, int], None]


class Upscaling:
    """One call of `upscale`: its checked arguments, and what is done to each window and strip."""

    def __init__(
        self,
        model: TADiSR,
        image: Tensor,
        *,
        scale: float = SCALE,
        tiling: Tiling | None = None,
        enlarged: Tensor | None = None,
        guide: Tensor | None = None,
        fidelity: float = 0.0,
        detail: float | None = None,
        color_fix: str = "off",
        device: torch.device | None = None,
        progress: Progress | None = None,
        preview: Callable[[Tensor], object] | None = None,
        edited: Tensor | None = None,
    ) -> None:
        check_image(image, scale)
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
        self.model, self.image = model, image.cpu()
        self.tiling = tiling or choose_tiling(model.config)
        self.enlarged, self.fidelity, self.detail, self.color_fix = enlarged, fidelity, detail, color_fix
        self.guide = None if guide is None else check_guide(guide, len(image))
        self.edited = edited  # 1 where the guide differs from the model's own mask; None: anywhere
        self.device = device or model.device
        self.progress, self.preview = progress, preview
        self.small = Preview(split_alpha(self.image)[0])
        self.held: dict[int, Layers] = {}

    def layers(self, index: int) -> Layers:
        if index not in self.held:
            self.held[index] = split_layers(self.image[index])
        return self.held[index]

    def strips(self, out: tuple[Tensor, Tensor] | None = None) -> Iterator[Strip]:
        """Yield unfinished strips of every image; `out` as `blend_tiles` takes it."""
        text = None
        if self.tiling.text_aware and max(self.full) > self.tiling.tile:
            text = coarse_text(self.model, split_alpha(self.image)[0], self.tiling, self.device)
        count, _, height, width = self.image.shape
        for strip in blend_tiles(
            self.run, (count, height, width), self.channels,
            tiling=self.tiling, size=self.size, text=text, out=out, progress=self.progress,
        ):  # fmt: skip
            index, bottom = strip.image, strip.top + len(strip.maps)
            yield strip
            del strip  # which is as large as a row of tiles, and the next one is about to run
            if bottom == self.size[0]:
                self.held.pop(index, None)

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
                alpha = blend_on_ground(upscaled.mean(0, keepdim=True), layers.dark)
                maps = torch.cat([torch.maximum(maps[:1], others[:1]), torch.minimum(maps[1:], others[1:])])
            elif layers.alpha is not None:
                alpha = resize_window(layers.alpha, self.full, *span_of_window(window))
            if len(layers.colors) == 1:
                colors = colors.mean(0, keepdim=True)
            tiles.append(Tile(colors, maps, alpha))
            self.show(window, tiles[-1])
        return tiles

    def has_structure(self, window: Window) -> bool:
        """Tell whether the window's alpha varies, so that the network has to upscale it."""
        alpha = self.layers(window.image).alpha
        if alpha is None:
            return False
        height, width = alpha.shape[1:]
        rows = clip_span((window.top, window.top + window.height), height)
        columns = clip_span((window.left, window.left + window.width), width)
        rows, columns = source_span(height, self.full[0], rows), source_span(width, self.full[1], columns)
        return needs_upscaling(alpha[:, slice(*rows), slice(*columns)])

    def enlarge_colors(self, window: Window) -> Tensor:
        """Resize a window's colours to what the network takes, (3, 4 height, 4 width)."""
        if self.enlarged is not None:
            return cut_enlarged(self.enlarged[window.image], *span_of_window(window))
        return resize_window(self.layers(window.image).colors, self.full, *span_of_window(window)).expand(3, -1, -1)

    def enlarge_alpha(self, window: Window) -> Tensor:
        """Resize a window's alpha to an image of its own."""
        layers = self.layers(window.image)
        assert layers.alpha is not None
        alpha = resize_window(layers.alpha, self.full, *span_of_window(window))
        return blend_on_ground(alpha, layers.dark).expand(3, -1, -1)

    def run_network(self, jobs: list[tuple[Window, Callable[[Window], Tensor]]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the network on (window, how to make its image) -> images (3, H, W), maps (k, H, W), float32 on the CPU."""
        for first in range(0, len(jobs), self.tiling.batch):
            group = jobs[first : first + self.tiling.batch]
            images = [enlarge(window)[None] for window, enlarge in group]
            batch = torch.cat(images) if len(images) > 1 else images[0].contiguous()
            del images
            guides = None
            if self.guide is not None and any(self.is_edited(window) for window, _ in group):
                places = [(self.guide[window.image], self.full, *span_of_window(window)) for window, _ in group]
                guides = torch.stack([resize_window(*place) for place in places])
            pictures, maps = run_tile(self.model, batch, self.device, guides, self.detail)
            del batch
            results = list(zip(pictures.cpu(), maps.cpu(), strict=True))
            del pictures, maps
            while results:
                yield results.pop(0)

    def is_edited(self, window: Window) -> bool:
        """Tell whether the guide has edits within a window."""
        if self.edited is None:
            return True
        rows, columns = span_of_window(window)
        height, width = self.edited.shape[-2:]
        top, bottom = (max(0, row) * height // self.full[0] for row in rows)
        left, right = (max(0, column) * width // self.full[1] for column in columns)
        return bool(self.edited[window.image, 0, top : bottom + 1, left : right + 1].any())

    def show(self, window: Window, tile: Tile) -> None:
        if self.preview is None:
            return
        height, width = self.image.shape[-2:]
        rows = clip_span((window.top, window.top + window.height), height)
        place = rows, clip_span((window.left, window.left + window.width), width)
        colors = crop_margin(tile, window.top, window.left, place).colors.expand(3, -1, -1)
        self.preview(self.small.lay_tile(window.image, max(0, window.top), max(0, window.left), colors))

    def finish(self, strip: Strip, correction: color.Correction | None = None) -> None:
        """Apply colour correction and fidelity to a strip, in place."""
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
