"""Methods to evaluate: our models, plain resizing, any network spandrel can load, any folder of results."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tadisr import SCALE, load, upscale
from tadisr.checkpoints import adapter
from tadisr.errors import CheckpointError, ConfigError, ImageError
from tadisr.file_digest import hash_file
from tadisr.images import from_pixels, to_pil
from tadisr.inference.tiling import Tiling, Window, cut_window, run_tiled

from ..data.pairs import Pair, Pixels, list_images, read_rgb

OWN = Tiling()
OTHERS = Tiling(tile=1024, overlap=128)  # for networks of others, which know no text and need no more context


@dataclass(frozen=True)
class Made:
    """A method's result for an LR image, of HR's size."""

    picture: Pixels  # (H, W, 3)
    mask: Pixels | None = None  # (H, W), 255 where it sees text


class Method(ABC):
    """`digest` says all that its results depend on but the images; `kind` is what it is, for the report."""

    name: str
    kind: str
    digest: str
    file: Path | None = None
    keeps = True  # whether its images are worth keeping on disk

    @abstractmethod
    def make(self, pair: Pair) -> Made: ...

    def source(self, pair: Pair) -> str:
        """Return a digest of the files that `make` reads for this pair."""
        return f"{self.digest} {hash_file(pair.lr_path)}"


class Plain(Method):
    """The image enlarged, without any network. Bicubic is what ours is fed; of an LR file of HR's size it is that
    file itself.
    """

    keeps = False

    def __init__(self, name: str, filter_: str) -> None:
        self.name, self.kind, self.digest = name, filter_, filter_

    def make(self, pair: Pair) -> Made:
        if self.kind == "bicubic":
            return Made(pair.upscaled)
        lr = Image.fromarray(pair.lr)
        large = lr.resize((lr.width * SCALE, lr.height * SCALE), Image.Resampling.LANCZOS)
        return Made(crop_to_hr(np.array(large), pair))


class Ours(Method):
    """A checkpoint of ours, tile by tile; fed with LR files of HR's size as they are."""

    kind = "model"

    def __init__(
        self,
        name: str,
        file: Path,
        *,
        base: Path | None,
        device: torch.device,
        dtype: torch.dtype,
        tiling: Tiling = OWN,
    ) -> None:
        self.name, self.file, self.path, self.base = name, file, file, base
        self.device, self.dtype, self.tiling = device, dtype, tiling
        config = adapter.read_header(file).config
        if config.lora is not None and base is None:
            raise CheckpointError(f"{file} is an adapter: say with --base where its frozen base lies.")
        self.digest = hash_texts(hash_file(file), device.type, str(dtype), repr(tiling))

    @cached_property
    def model(self) -> Any:
        alone = adapter.read_header(self.path).config.lora is None
        return load(self.path, base=None if alone else self.base, device=self.device, dtype=self.dtype)

    def make(self, pair: Pair) -> Made:
        enlarged = None
        if pair.is_upscaled:
            pixels = pair.upscaled
            height, width = pixels.shape[:2]
            enlarged = from_pixels(np.pad(pixels, ((0, -height % SCALE), (0, -width % SCALE), (0, 0)), "edge"))
        result = upscale(self.model, from_pixels(pair.lr), enlarged=enlarged, tiling=self.tiling)
        mask = None
        if self.model.config.decoder.joint:
            mask = crop_to_hr(np.array(to_pil(result.mask)), pair)
        return Made(crop_to_hr(np.array(to_pil(result.image)), pair), mask)


class Foreign(Method):
    """A super-resolution network of others in a file, by spandrel: ESRGAN, SwinIR, HAT, DAT and many more."""

    kind = "spandrel"

    def __init__(self, name: str, file: Path, *, device: torch.device, tiling: Tiling = OTHERS) -> None:
        if not file.is_file():
            raise CheckpointError(f"There is no file {file}.")
        self.name, self.file, self.path, self.device, self.tiling = name, file, file, device, tiling
        self.digest = hash_texts(hash_file(file), device.type, repr(tiling))

    @cached_property
    def network(self) -> Any:
        try:
            from spandrel import ImageModelDescriptor, ModelLoader
        except ImportError as error:
            raise ConfigError("Networks of others need the package spandrel: pip install 'tadisr[train]'.") from error
        try:
            network = ModelLoader(device=self.device).load_from_file(self.path)
        except Exception as error:
            raise CheckpointError(f"{self.file} is no network spandrel can load: {error}") from error
        if not isinstance(network, ImageModelDescriptor):
            raise CheckpointError(f"{self.file} is a {type(network).__name__}: it does not make one image of one.")
        if network.scale != SCALE or (network.input_channels, network.output_channels) != (3, 3):
            raise CheckpointError(
                f"{self.file} magnifies {network.scale} times, {network.input_channels} to {network.output_channels} "
                f"channels; expected {SCALE} times, 3 to 3."
            )
        return network.eval()

    def make(self, pair: Pair) -> Made:
        lr = from_pixels(pair.lr)

        def run(tiles: Tensor, windows: list[Window]) -> tuple[Tensor, Tensor]:
            cut = [cut_window(lr, window) for window in windows]
            return torch.cat([self.network(one.to(self.device)).float() for one in cut]), tiles[:, :1] * 0

        picture, _ = run_tiled(run, lr, tiling=self.tiling)
        return Made(crop_to_hr(np.array(to_pil(picture)), pair))


class Segmented(Method):
    """A text segmenter on what the network is fed, to compare masks as in Appendix B; its image is the plain bicubic one."""

    kind = "segmenter"

    def __init__(self, name: str, file: Path, *, sam: Path | None, device: torch.device) -> None:
        for path in (file, *([] if sam is None else [sam])):
            if not path.is_file():
                raise CheckpointError(f"There is no file {path}.")
        self.name, self.file, self.path, self.sam, self.device = name, file, file, sam, device
        self.digest = hash_texts(hash_file(file), "" if sam is None else hash_file(sam), device.type)

    @cached_property
    def segmenter(self) -> Any:
        from ..segmentation import open_segmenter

        return open_segmenter(self.path, sam=self.sam, device=str(self.device))

    def make(self, pair: Pair) -> Made:
        from ..segmentation import quantize_mask

        pixels = pair.upscaled
        return Made(pixels, quantize_mask(self.segmenter([pixels])[0]))


class Results(Method):
    """A folder of images that some program has made, named as the HR images are; NAME_mask.png is a text mask."""

    kind = "results"
    keeps = False

    def __init__(self, name: str, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"There is no folder {folder} of results.")
        self.name, self.file, self.digest = name, folder, "results"
        self.files = list_images(folder)

    def find(self, pair: Pair) -> Path:
        if pair.key not in self.files:
            raise ConfigError(f"{self.file} has no image {pair.key}: results are named as the HR images are.")
        return self.files[pair.key]

    def source(self, pair: Pair) -> str:
        mask = self.files.get(f"{pair.key}_mask")
        return f"{hash_file(self.find(pair))} {'' if mask is None else hash_file(mask)}"

    def make(self, pair: Pair) -> Made:
        mask = self.files.get(f"{pair.key}_mask")
        return Made(self.read(self.find(pair), pair), None if mask is None else self.read(mask, pair)[..., 0])

    def read(self, path: Path, pair: Pair) -> Pixels:
        pixels = read_rgb(path)
        if pixels.shape[:2] != pair.size:
            (height, width), (rows, columns) = pixels.shape[:2], pair.size
            raise ImageError(f"{path} is {width}x{height}, its HR image {columns}x{rows}: expected the same.")
        return pixels


def crop_to_hr(pixels: Pixels, pair: Pair) -> Pixels:
    """Remove the rows and columns (at most three) by which four times the LR image is larger than HR."""
    height, width = pair.size
    return pixels[:height, :width]


def hash_texts(*parts: str) -> str:
    """Hash texts with sha256."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# ---- from the command line ------------------------------------------------------------------------------------------


def split_name(text: str) -> tuple[str | None, str]:
    """Split `NAME=REST` into (NAME, REST); an existing path may contain an equals sign."""
    name, equals, rest = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, text
    return name, rest


def make_model(text: str, *, base: Path | None, device: torch.device, dtype: torch.dtype, tiling: Tiling) -> Ours:
    """Make a method of `[NAME=]FILE`; the default name is the file's, or for a run's model.safetensors its folder's."""
    name, rest = split_name(text)
    file = Path(rest)
    own = file.resolve().parent.name if file.stem == "model" else file.stem
    return Ours(name or own, file, base=base, device=device, dtype=dtype, tiling=tiling)


def make_baseline(text: str, *, device: torch.device, sam: Path | None = None) -> Method:
    """Build `bicubic`, `lanczos`, `[NAME=]esrgan:FILE` for any file that spandrel can load, or `[NAME=]segmenter:FILE`.

    sam: SAM's own file, for Hi-SAM's published segmenters. Raises ConfigError for anything else.
    """
    name, rest = split_name(text)
    if rest in ("bicubic", "lanczos"):
        return Plain(name or rest, rest)
    kind, colon, file = rest.partition(":")
    if kind in ("esrgan", "spandrel") and colon:
        return Foreign(name or Path(file).stem, Path(file), device=device)
    if kind == "segmenter" and colon:
        return Segmented(name or Path(file).stem, Path(file), sam=sam, device=device)
    raise ConfigError(f"{text!r} is no baseline, expected bicubic, lanczos, esrgan:FILE or segmenter:FILE.")


def make_results(text: str) -> Results:
    """Make a method of `[NAME=]DIR`; the default name is the folder's."""
    name, rest = split_name(text)
    return Results(name or Path(rest).resolve().name, Path(rest))
