"""Training samples: (upscaled LR, HR, mask) crops by index, from pairs on disk, rendered text, or a mixture.

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
from tadisr.errors import ConfigError
from tadisr.images import from_pixels, resize_image

from ..config import DataConfig, SourceConfig
from .degradation.recipes import degrade_mixture
from .guides import draw_guide
from .pairs import Pair, Pairs, find_layout, open_pairs
from .pool import PoolCrops
from .text_rendering.scenes import RenderedText
from .views import Viewer

SMALL_TEXT = 20  # LR pixels of a line's height: below it an f8 VAE has few latent cells for a character

Sample = dict[str, Tensor]  # upscaled (3, c, c), hr (3, c, c), mask (1, c, c), float32 in [0, 1]


class Samples(Protocol):
    def draw_sample(self, index: int) -> Sample: ...


class Triplets(Dataset[Sample]):
    """A stream of samples as a data set without end, with `known` and `guide` added to each.

    known (1,): 1 where the mask is the true one, 0 where it is not known. guide (1, c, c): for a share `guided` of the
    samples with text, their mask as a hand would draw it (`guides.draw_guide`), else zero.
    """

    def __init__(self, samples: Samples, *, guided: float = 0.0, seed: int = 0) -> None:
        self.samples, self.guided, self.seed = samples, guided, seed

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples.draw_sample(index)
        sample = {"known": torch.ones(1), "guide": torch.zeros_like(sample["mask"]), **sample}
        if self.guided and sample["known"].item():
            rng = np.random.default_rng([self.seed, 5, index])
            if rng.random() < self.guided:
                sample["guide"] = torch.from_numpy(draw_guide(sample["mask"][0].numpy(), rng))[None]
        return sample


class Rendered:
    """Rendered text, its LR image brought to HR's size as the network takes it."""

    def __init__(self, stream: RenderedText) -> None:
        self.stream = stream

    def draw_sample(self, index: int) -> Sample:
        sample = self.stream.draw_sample(index)
        upscaled = resize_image(sample.pop("lr")[None], (self.stream.crop, self.stream.crop))[0]
        return {"upscaled": upscaled, **sample}


class PairCrops:
    """Samples of crop x crop from pairs on disk; each pass over the data is a new order.

    Windows begin at multiples of 4, so that LR and HR stay aligned. A viewer with `middle` also keeps the pairs in their own
    order, as validation needs it. degradation: LR is made from the HR sample by these presets instead of read.
    small_text: how often a pair with text under SMALL_TEXT LR pixels is drawn, relative to the others; other than 1, pairs
    are drawn at random instead of in passes. Raises ConfigError where a mask is needed and missing, and where small_text is
    set and the height of the text is not known.
    """

    def __init__(
        self,
        pairs: list[Pair],
        *,
        viewer: Viewer,
        seed: int,
        needs_mask: bool = True,
        degradation: dict[str, float] | None = None,
        small_text: float = 1.0,
    ) -> None:
        bare = [pair for pair in pairs if pair.mask_path is None]
        if needs_mask and bare:
            raise ConfigError(
                f"{bare[0].hr_path} has no text mask ({len(bare)} of {len(pairs)}), which the joint decoders learn from: "
                "make them (docs/training/data.md), or set model.decoder.joint: false."
            )
        self.pairs, self.viewer, self.seed = pairs, viewer, seed
        self.degradation = degradation or {}
        self.shares = None if small_text == 1 else compute_small_text_shares(pairs, small_text)

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int) -> Pair:
        """Pick the pair of a sample: every pair once in each pass, or by `small_text`'s shares."""
        passes, place = divmod(index, len(self.pairs))
        if self.viewer.middle:
            return self.pairs[place]
        if self.shares is not None:
            return self.pairs[int(np.random.default_rng([self.seed, 4, index]).choice(len(self.pairs), p=self.shares))]
        return self.pairs[np.random.default_rng([self.seed, 1, passes]).permutation(len(self.pairs))[place]]

    def draw_sample(self, index: int) -> Sample:
        return self.cut(self.pair(index), np.random.default_rng([self.seed, 2, index]))

    def cut(self, pair: Pair, rng: np.random.Generator) -> Sample:
        """Read a pair and cut one sample of it."""
        if self.viewer.fits(pair.size) and not pair.is_upscaled and not self.degradation:
            return self.cut_lr(pair, rng)
        mask = pair.mask
        if self.degradation:
            (hr_pixels,), cut_mask = self.viewer.cut([pair.hr], mask, rng)
            lr = degrade_mixture(hr_pixels.astype(np.float32) / 255, self.degradation, rng)
            upscaled = _upscale(torch.from_numpy(lr).permute(2, 0, 1), self.viewer.crop)
        else:
            (pixels, hr_pixels), cut_mask = self.viewer.cut([pair.upscaled, pair.hr], mask, rng)
            upscaled = from_pixels(pixels)[0]
        return {"upscaled": upscaled, "hr": from_pixels(hr_pixels)[0], "mask": from_pixels(cut_mask[..., None])[0]}

    def cut_lr(self, pair: Pair, rng: np.random.Generator) -> Sample:
        """Cut a window of an LR file of a quarter of HR's size, and upscale only the window."""
        size, small = pair.size, self.viewer.crop // SCALE
        top, left = self.viewer.place(size, rng)
        window = np.s_[top * SCALE : top * SCALE + self.viewer.crop, left * SCALE : left * SCALE + self.viewer.crop]
        lr, mask = pair.lr[top : top + small, left : left + small], pair.mask
        cut_mask = np.zeros((self.viewer.crop,) * 2, np.uint8) if mask is None else mask[window]
        upscaled = _upscale(from_pixels(lr)[0], self.viewer.crop)
        return {
            "upscaled": upscaled,
            "hr": from_pixels(pair.hr[window])[0],
            "mask": from_pixels(cut_mask[..., None])[0],
        }


def compute_small_text_shares(pairs: list[Pair], weight: float) -> NDArray[np.float64]:
    """Compute each pair's share of the samples: `weight` for small text, 1 for the others, divided by their sum.

    A pair's text is small where the median height of its labelled lines is under SMALL_TEXT LR pixels. Raises ConfigError
    for a negative weight and where no pair has labels with boxes.
    """
    heights = [measure_text_height(pair) for pair in pairs]
    if weight < 0 or not any(height is not None for height in heights):
        raise ConfigError(
            f"small_text is {weight} for {pairs[0].hr_path.parent}: it needs a weight of 0 or more, and to know how high the "
            "text is: index.jsonl as train.synthesis writes it, or labels with boxes "
            "(docs/training/evaluation.md). Set small_text: 1."
        )
    weights = np.array([weight if height is not None and height < SMALL_TEXT else 1.0 for height in heights])
    if not weights.any():
        raise ConfigError(f"small_text is 0 and all text of {pairs[0].hr_path.parent} is small: no pair is left.")
    return weights / weights.sum()


def measure_text_height(pair: Pair) -> float | None:
    """Compute the median height of a pair's labelled lines in LR pixels; None without labels that have boxes."""
    boxes = [np.array(label.box) for label in pair.label or () if label.box is not None]
    sides = [np.linalg.norm(box - np.roll(box, -1, 0), axis=1).min() for box in boxes]
    return float(np.median(sides)) / SCALE if sides else None


class Mixture:
    """Each sample from a source drawn by weight: within it, a sample drawn anew."""

    def __init__(self, sources: list[Samples], weights: list[float], *, seed: int) -> None:
        self.sources, self.seed = sources, seed
        self.shares = np.array(weights, np.float64) / sum(weights)

    def draw_sample(self, index: int) -> Sample:
        rng = np.random.default_rng([self.seed, 3, index])
        source = self.sources[int(rng.choice(len(self.sources), p=self.shares))]
        return source.draw_sample(int(rng.integers(2**40)) if isinstance(source, PairCrops) else index)


def _upscale(lr: Tensor, size: int) -> Tensor:
    return resize_image(lr[None], (size, size))[0]


# ---- from the config ------------------------------------------------------------------------------------------------


def open_training_samples(data: DataConfig, *, seed: int, needs_mask: bool = True) -> Samples:
    """Open the stream that a run trains on. Raises ConfigError."""
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


def open_held_out_samples(
    data: DataConfig, *, seed: int, needs_mask: bool = True, names: tuple[str, ...] = ()
) -> tuple[HeldOut, int | None]:
    """Open samples that training never sees, and count them; None: without end.

    names: the sources to take, by turns; none: all that train. Raises ConfigError for a name that does not train.
    """
    known = _sources(data)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"validate.sources names {unknown[0]}, which is not among the sources that train: {', '.join(known)}."
        )
    streams = {
        name: _open(name, known[name], data, seed=seed + 1_000_003, needs_mask=needs_mask, held_out=True)
        for name in names or known
    }
    counts = [len(stream) for stream in streams.values() if isinstance(stream, PairCrops)]
    return HeldOut(streams), min(counts) * len(streams) if counts else None


class HeldOut:
    """Held-out samples of one or more sources, by turns."""

    def __init__(self, streams: dict[str, Rendered | PairCrops | PoolCrops]) -> None:
        self.streams = streams
        self.names = tuple(streams)

    def source(self, index: int) -> str:
        """Return the name of the source that a sample is from."""
        return self.names[index % len(self.names)]

    def draw_sample(self, index: int) -> Sample:
        return self.streams[self.source(index)].draw_sample(index // len(self.names))


def _sources(data: DataConfig) -> dict[str, SourceConfig]:
    """The sources that train: those of a mixture whose weight is not 0, or the one that `kind` names."""
    if data.kind == "mixture":
        if not data.sources:
            raise ConfigError("data.kind is mixture, but data.sources names none.")
        training = {name: source for name, source in data.sources.items() if source.weight != 0}
        if not training:
            raise ConfigError("Every source of data.sources has the weight 0: give one of them another.")
        return training
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
) -> Rendered | PairCrops | PoolCrops:
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
                words=[Path(file) for file in data.words],
            )
        )
    if config.folder is None:
        raise ConfigError(f"The data set {name} needs its folder: data.folder=DIR, or data.sources.{name}.folder=DIR.")
    if config.kind == "pool":
        folder = config.held_out if held_out and config.held_out is not None else config.folder
        degradation = config.degradation or data.degradation or {"ftsr": 1.0}
        return PoolCrops(Path(folder), crop=data.crop, seed=seed, degradation=degradation)
    pairs = open_part(config, held_out=held_out)
    if pairs.layout != LAYOUTS.get(config.kind, pairs.layout):
        raise ConfigError(f"{pairs.folder} has the layout of {pairs.layout}, expected that of {LAYOUTS[config.kind]}.")
    return PairCrops(
        list(pairs),
        viewer=Viewer.from_config(data, config.view, middle=held_out),
        seed=seed,
        needs_mask=needs_mask,
        degradation=config.degradation,
        small_text=1.0 if held_out else data.small_text,
    )


def open_part(config: SourceConfig, *, held_out: bool) -> Pairs:
    """Open the training or the held-out part of a source. Raises ConfigError if nothing is held out."""
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
