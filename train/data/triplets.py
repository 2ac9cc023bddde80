"""What training draws from: (upscaled LR, HR, mask) crops by index, from pairs on disk, rendered text, or a mixture.

Sample i depends on nothing but (seed, i): any number of workers and processes gives the same stream, and it can be
cut anywhere and taken up again. There are no flips: a mirrored letter is no letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tadisr.config import SCALE
from tadisr.errors import ConfigError, ImageError
from tadisr.image import resize

from ..settings import DataConfig, SourceConfig
from .degradation import mixture
from .pairs import Pair, Pairs, find_layout, open_pairs
from .rendered import RenderedText

Sample = dict[str, Tensor]  # upscaled (3, c, c), hr (3, c, c), mask (1, c, c), float32 in [0, 1]


class Samples(Protocol):
    def sample(self, index: int) -> Sample: ...


class Triplets(Dataset[Sample]):
    """A stream of samples as a data set without end."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Sample:
        return self.samples.sample(index)


class Rendered:
    """Rendered text, its LR picture brought to HR's size as the network takes it."""

    def __init__(self, stream: RenderedText) -> None:
        self.stream = stream

    def sample(self, index: int) -> Sample:
        sample = self.stream.sample(index)
        upscaled = resize(sample.pop("lr")[None], (self.stream.crop, self.stream.crop))[0]
        return {"upscaled": upscaled, **sample}


class PairCrops:
    """Random crops of pairs on disk, on multiples of 4 so that LR and HR stay aligned; each pass is a new order.

    middle: the middle crop, and the pictures in their own order, as validation wants them. degradation: LR is made
    from the HR crop by these presets instead of read. Raises ConfigError where a mask is needed and not there.
    """

    def __init__(
        self,
        pairs: list[Pair],
        *,
        crop: int,
        seed: int,
        needs_mask: bool = True,
        degradation: dict[str, float] | None = None,
        middle: bool = False,
    ) -> None:
        if crop % SCALE:
            raise ConfigError(f"crop is {crop}, expected a multiple of {SCALE}.")
        bare = [pair for pair in pairs if pair.mask_path is None]
        if needs_mask and bare:
            raise ConfigError(
                f"{bare[0].hr_path} has no text mask ({len(bare)} of {len(pairs)}), which the joint decoders learn from: "
                "make them (docs/data.md), or set model.decoder.joint: false."
            )
        self.pairs, self.crop, self.seed = pairs, crop, seed
        self.degradation, self.middle = degradation or {}, middle

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int) -> Pair:
        """Every pair once in each pass over the data."""
        passes, place = divmod(index, len(self.pairs))
        if self.middle:
            return self.pairs[place]
        return self.pairs[np.random.default_rng([self.seed, 1, passes]).permutation(len(self.pairs))[place]]

    def sample(self, index: int) -> Sample:
        return self.cut(self.pair(index), np.random.default_rng([self.seed, 2, index]))

    def cut(self, pair: Pair, rng: np.random.Generator) -> Sample:
        height, width = pair.size
        if min(height, width) < self.crop:
            raise ImageError(
                f"{pair.hr_path} is {width}x{height}, smaller than the crop of {self.crop}: lower data.crop."
            )
        room = ((height - self.crop) // SCALE, (width - self.crop) // SCALE)
        top, left = (r // 2 if self.middle else int(rng.integers(r + 1)) for r in room)  # in LR pixels
        window = np.s_[top * SCALE : top * SCALE + self.crop, left * SCALE : left * SCALE + self.crop]
        hr = to_tensor(pair.hr[window])
        if self.degradation:
            lr = mixture(hr.permute(1, 2, 0).numpy(), self.degradation, rng)
            upscaled = _upscale(torch.from_numpy(lr).permute(2, 0, 1), self.crop)
        elif pair.is_upscaled:
            upscaled = to_tensor(pair.upscaled[window])
        else:
            small = self.crop // SCALE
            upscaled = _upscale(to_tensor(pair.lr[top : top + small, left : left + small]), self.crop)
        mask = pair.mask
        cut = torch.zeros(1, self.crop, self.crop) if mask is None else to_tensor(mask[window][..., None])
        return {"upscaled": upscaled, "hr": hr, "mask": cut}


class Mixture:
    """Each sample from a source drawn by weight: within it, a sample drawn anew."""

    def __init__(self, sources: list[Samples], weights: list[float], *, seed: int) -> None:
        self.sources, self.seed = sources, seed
        self.shares = np.array(weights, np.float64) / sum(weights)

    def sample(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, 3, index])
        source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
        return source.sample(int(rng.integers(2**40)) if isinstance(source, PairCrops) else index)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(H, W, C) 8 bits -> (C, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous().float() / 255


def _upscale(lr: Tensor, size: int) -> Tensor:
    return resize(lr[None], (size, size))[0]


# ---- from the config ------------------------------------------------------------------------------------------------


def training_samples(data: DataConfig, *, seed: int, needs_mask: bool = True) -> Samples:
    """The stream that a run trains on. Raises ConfigError."""
    sources, weights = [], []
    for name, config in _sources(data).items():
        source = _open(name, config, data, seed=seed, needs_mask=needs_mask)
        sources.append(source)
        counted = float(len(source)) if isinstance(source, PairCrops) else 0.0
        weights.append(counted if config.weight is None else config.weight)
    if len(sources) == 1:
        return sources[0]
    if min(weights) < 0 or not sum(weights):
        raise ConfigError(
            f"The weights of data.sources are {weights}: give rendered ones a weight, none may be negative."
        )
    return Mixture(sources, weights, seed=seed)


def held_out_samples(data: DataConfig, *, seed: int, needs_mask: bool = True) -> tuple[Samples, int | None]:
    """Samples that training never sees, and how many there are; None: without end. A mixture's by turns."""
    streams = [
        _open(name, config, data, seed=seed + 1_000_003, needs_mask=needs_mask, held_out=True)
        for name, config in _sources(data).items()
    ]
    if len(streams) == 1:
        return streams[0], len(streams[0]) if isinstance(streams[0], PairCrops) else None
    counts = [len(stream) for stream in streams if isinstance(stream, PairCrops)]
    return Turns(streams), min(counts) * len(streams) if counts else None


class Turns:
    """The sources of a mixture one after the other."""

    def __init__(self, sources: list[Rendered | PairCrops]) -> None:
        self.sources = sources

    def sample(self, index: int) -> Sample:
        return self.sources[index % len(self.sources)].sample(index // len(self.sources))


def _sources(data: DataConfig) -> dict[str, SourceConfig]:
    if data.kind == "mixture":
        if not data.sources:
            raise ConfigError("data.kind is mixture, but data.sources names none.")
        return data.sources
    if data.sources:
        raise ConfigError(f"data.sources is for data.kind: mixture, this one is {data.kind}.")
    return {
        data.kind: SourceConfig(
            kind=data.kind, folder=data.folder, held_out=data.held_out, degradation=data.degradation
        )
    }


LAYOUTS = {"ftsr": "FTSR", "realce": "Real-CE"}


def _open(
    name: str, config: SourceConfig, data: DataConfig, *, seed: int, needs_mask: bool, held_out: bool = False
) -> Rendered | PairCrops:
    if config.kind == "rendered":
        return Rendered(
            RenderedText(
                crop=data.crop,
                seed=seed,
                backgrounds=[Path(folder) for folder in data.backgrounds],
                fonts=[Path(folder) for folder in data.fonts],
                degradation=config.degradation or data.degradation or None,
                camera=data.camera,
                text_scale=data.text_scale,
                walls=data.walls,
            )
        )
    if config.folder is None:
        raise ConfigError(f"The data set {name} needs its folder: data.folder=DIR, or data.sources.{name}.folder=DIR.")
    pairs = open_part(config, held_out=held_out)
    if pairs.layout != LAYOUTS.get(config.kind, pairs.layout):
        raise ConfigError(f"{pairs.folder} has the layout of {pairs.layout}, expected that of {LAYOUTS[config.kind]}.")
    return PairCrops(
        list(pairs), crop=data.crop, seed=seed, needs_mask=needs_mask, degradation=config.degradation, middle=held_out
    )


def open_part(config: SourceConfig, *, held_out: bool) -> Pairs:
    """What is trained on, or what is not. Raises ConfigError where a folder has no part that is held out."""
    folder = Path(config.folder or "")
    if held_out and config.held_out is not None:
        return open_pairs(config.held_out)
    layout = find_layout(folder)
    parted = layout.name == "FTSR" or any((folder / name).is_file() for name in layout.lists.values())
    if held_out and not parted:
        raise ConfigError(
            f"{folder} has no test part for panels and validation: write a {layout.lists['test']}, name a folder of other "
            "pairs as held_out, or set panel: 0 and validate.every: 0."
        )
    return open_pairs(folder, split=("test" if held_out else "train") if parted else "all")


class Share(Sampler[int]):
    """The indices that one process of several takes, in order: each step's samples are dealt out process by process.

    So two processes of batch B see in one step what one process of batch 2B sees.
    """

    def __init__(self, *, start: int, stop: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.stop, self.batch, self.rank, self.world = start, stop, batch, rank, world

    def __iter__(self) -> Iterator[int]:
        for pass_ in range(self.start, self.stop):
            first = (pass_ * self.world + self.rank) * self.batch
            yield from range(first, first + self.batch)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.batch
