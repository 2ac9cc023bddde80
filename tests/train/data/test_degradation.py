"""The degradation recipe: its two sets of tools, and its statistics beside a second implementation of the published
formulae (Real-ESRGAN, Sec. 3; basicsr's kernels), written here from scratch with SciPy and Pillow."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.special import j1

from tadisr import ConfigError, ImageError
from train.data.degradation.kernels import Blur, draw_kernel, make_sinc_kernel
from train.data.degradation.on_tensors import Tensors, degrade_batch, run_in_batches
from train.data.degradation.recipes import FTSR, REAL_ESRGAN, RECIPES, Preset, degrade_image

SIDE, COUNT = 64, 160


def photograph(side: int = SIDE) -> NDArray[np.float32]:
    """Soft shapes, a texture and hard strokes, (side, side, 3)."""
    y, x = np.mgrid[0:side, 0:side] / side
    soft = 0.5 + 0.3 * np.stack([np.sin(5 * x + 2 * y), np.cos(4 * y), x * y], 2)
    soft += 0.08 * np.random.default_rng(1).normal(size=(side, side, 1))
    soft[side // 4 : side // 3, ::7] = 0.1
    soft[side // 2 : side // 2 + 3, 8:-8] = 0.95
    return np.clip(soft, 0, 1).astype(np.float32)


def tensor(picture: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))


def rngs(count: int, start: int = 0) -> list[Generator]:
    return [np.random.default_rng(seed) for seed in range(start, start + count)]


# ---- the second implementation --------------------------------------------------------------------------------------


def reference_kernel(b: Blur, rng: Generator) -> NDArray[np.float64]:
    size = 2 * rng.integers(3, 11) + 1
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1).astype(float) - (size - 1) / 2
    if rng.uniform() < 0.1:
        cutoff = rng.uniform(np.pi / 3 if size < 13 else np.pi / 5, np.pi)
        r = np.linalg.norm(grid, axis=-1)
        with np.errstate(all="ignore"):
            kernel = cutoff * j1(cutoff * r) / (2 * np.pi * r)
        kernel[r == 0] = cutoff**2 / (4 * np.pi)
        return kernel / kernel.sum()
    kind = rng.choice(6, p=[0.45, 0.25, 0.12, 0.03, 0.12, 0.03])
    one = rng.uniform(*b.sigma)
    two = rng.uniform(*b.sigma) if kind % 2 else one
    angle = rng.uniform(-np.pi, np.pi) if kind % 2 else 0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = turn @ np.diag([one**2, two**2]) @ turn.T
    distance = np.einsum("...i,ij,...j->...", grid, np.linalg.inv(covariance), grid)
    low, high = (b.betag, b.betag, b.betap)[kind // 2]
    beta = rng.uniform(low, 1) if rng.uniform() < 0.5 else rng.uniform(1, high)
    if kind < 2:
        kernel = np.exp(-0.5 * distance)
    elif kind < 4:
        kernel = np.exp(-0.5 * distance**beta)
    else:
        kernel = 1 / (distance**beta + 1)
    return kernel / kernel.sum()


def reference(hr: NDArray[np.float32], p: Preset, rng: Generator, *, authors: bool) -> NDArray[np.float32]:
    def convolve(image: NDArray, kernel: NDArray) -> NDArray:
        return np.stack([ndimage.correlate(image[..., c], kernel, mode="mirror") for c in range(3)], 2)

    def resize(
        image: NDArray, height: int, width: int, modes: tuple[str, ...] = ("area", "bilinear", "bicubic")
    ) -> NDArray:
        mode = modes[rng.integers(len(modes))]
        batch = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
        return F.interpolate(batch, size=(height, width), mode=mode)[0].numpy().transpose(1, 2, 0)

    def noisy(image: NDArray, s) -> NDArray:
        gray = rng.uniform() < s.gray
        if rng.uniform() < s.gaussian:
            field = rng.standard_normal((*image.shape[:2], 1 if gray else 3)) * rng.uniform(*s.noise) / 255
        else:
            clean = np.round(np.clip(image, 0, 1) * 255) / 255
            if gray:
                clean = np.round(clean @ [0.299, 0.587, 0.114] * 255)[..., None] / 255
            levels = 2.0 ** np.ceil(np.log2(len(np.unique(clean))))
            field = (rng.poisson(clean * levels) / levels - clean) * rng.uniform(*s.poisson)
        return np.clip(image + field, 0, 1)

    def compressed(image: NDArray, quality: float) -> NDArray:
        file = io.BytesIO()
        Image.fromarray(np.uint8(np.round(np.clip(image, 0, 1) * 255))).save(file, "JPEG", quality=int(quality))
        return np.asarray(Image.open(file)).astype(np.float32) / 255

    def one_round(image: NDArray, s, height: int, width: int) -> NDArray:
        kernel = reference_kernel(s.kernels, rng) if rng.uniform() < s.blur else np.ones((1, 1))
        late = rng.uniform() < s.late_blur
        image = image if late else convolve(image, kernel)
        scale = factor(s)
        image = noisy(resize(image, round(height * scale), round(width * scale)), s)
        return convolve(image, kernel) if late else image

    def factor(s) -> float:
        way = rng.choice(3, p=s.resize_weights)
        return [rng.uniform(1, s.resize[1]), rng.uniform(s.resize[0], 1), 1][way]

    height, width = hr.shape[:2]
    if authors:  # resize, blur, noise; or noise, blur at the image's own size
        kernel, scale = reference_kernel(p.first.kernels, rng), factor(p.first)
        image = resize(hr, round(height * scale), round(width * scale))
        image = noisy(convolve(image, kernel), p.first) if rng.uniform() > 0.5 else convolve(noisy(hr, p.first), kernel)
        scale = factor(p.second)
        size = (round(height / 4 * scale), round(width / 4 * scale))
        image = noisy(resize(image, *size, ("bilinear", "bicubic")), p.second)
        quality = rng.uniform(*p.second.jpeg)
        if rng.uniform() < 0.5:
            return compressed(resize(image, height // 4, width // 4), quality)
        return resize(compressed(image, quality), height // 4, width // 4)
    image = compressed(one_round(hr, p.first, height, width), rng.uniform(*p.first.jpeg))
    image = one_round(image, p.second, height // 4, width // 4)
    sinc = np.ones((1, 1))
    if rng.uniform() < p.final_sinc:
        size = 2 * int(rng.integers(3, 11)) + 1
        r = np.hypot(*(np.indices((size, size)) - size // 2))
        cutoff = rng.uniform(np.pi / 3, np.pi)
        r[size // 2, size // 2] = 1e-6
        sinc = cutoff * j1(cutoff * r) / r
        sinc /= sinc.sum()
    quality = rng.uniform(*p.second.jpeg)
    if rng.uniform() < 0.5:
        return compressed(convolve(resize(image, height // 4, width // 4), sinc), quality)
    return convolve(resize(compressed(image, quality), height // 4, width // 4), sinc)


def psnr(lr: NDArray[np.float32], hr: NDArray[np.float32]) -> float:
    up = F.interpolate(tensor(np.clip(lr, 0, 1))[None], scale_factor=4, mode="bicubic").clamp(0, 1)
    return -10 * math.log10(float(((up[0] - tensor(hr)) ** 2).mean()))


def bands(lr: NDArray[np.float32]) -> NDArray[np.float64]:
    """log10 of the mean power in four rings of frequency."""
    power = np.abs(np.fft.fft2(lr.mean(2) - lr.mean())) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(n) for n in power.shape[::-1]]))
    return np.log10([power[(frequency > a) & (frequency <= a + 0.125)].mean() for a in (0, 0.125, 0.25, 0.375)])


@pytest.fixture(scope="module")
def references() -> dict[str, list[NDArray[np.float32]]]:
    return {
        name: [reference(photograph(), preset, rng, authors=name == "ftsr-authors") for rng in rngs(COUNT, 900)]
        for name, preset in {"ftsr-authors": FTSR, "ftsr": FTSR, "real-esrgan": REAL_ESRGAN}.items()
    }


def with_opencv(name: str) -> list[NDArray[np.float32]]:
    return [degrade_image(photograph(), name, rng) for rng in rngs(COUNT)]


def with_torch(name: str) -> list[NDArray[np.float32]]:
    hr = tensor(photograph()).expand(COUNT, -1, -1, -1)
    return [lr.numpy().transpose(1, 2, 0) for lr in degrade_batch(hr, name, rngs(COUNT))]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("run", [with_opencv, with_torch])
def test_the_statistics_are_those_of_the_published_formulae(
    run: Callable[[str], list], name: str, references: dict[str, list]
) -> None:
    ours, theirs = run(name), references[name]
    for measure in (lambda lr: np.array([psnr(lr, photograph())]), bands):
        a, b = (np.stack([measure(lr) for lr in lrs]) for lrs in (ours, theirs))
        error = np.sqrt((a.var(0) + b.var(0)) / COUNT)  # of the difference of the means
        assert (np.abs(a.mean(0) - b.mean(0)) < 3.5 * error).all(), (a.mean(0), b.mean(0), error)
        assert ((a.std(0) / b.std(0) > 0.6) & (a.std(0) / b.std(0) < 1.7)).all()


def test_the_presets_are_told_apart(references: dict[str, list]) -> None:
    """What the comparison above can see: the other preset fails it."""

    def figures(lrs: list) -> NDArray[np.float64]:
        return np.stack([np.append(bands(lr), psnr(lr, photograph())) for lr in lrs])

    for one, other in (("real-esrgan", "ftsr"), ("ftsr", "ftsr-authors")):
        ours, theirs = figures(with_opencv(one)), figures(references[other])
        error = np.sqrt((ours.var(0) + theirs.var(0)) / COUNT)
        assert (np.abs(ours.mean(0) - theirs.mean(0)) > 3.5 * error).any(), (ours.mean(0), theirs.mean(0), error)


@pytest.mark.parametrize("blur", [FTSR.first.kernels, REAL_ESRGAN.first.kernels, REAL_ESRGAN.second.kernels])
def test_kernels_are_drawn_as_published(blur: Blur) -> None:
    def figures(draw: Callable[[Blur, Generator], NDArray]) -> NDArray:
        rows = []
        for rng in rngs(1500):
            kernel = draw(blur, rng)
            y, x = np.indices(kernel.shape) - len(kernel) // 2
            assert kernel.sum() == pytest.approx(1, abs=1e-4) and len(kernel) in range(7, 22, 2)
            assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
            rows.append([len(kernel), kernel.max(), (kernel * (x * x + y * y)).sum(), (kernel < -1e-9).any()])
        return np.array(rows, float)

    ours, theirs = figures(draw_kernel), figures(lambda b, rng: reference_kernel(b, rng))
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 1500)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 4 * error + 1e-9).all(), (ours.mean(0), theirs.mean(0))


@pytest.mark.parametrize("cutoff", [math.pi / 3, math.pi / 2, 2.4])
def test_a_sinc_passes_what_lies_below_its_cutoff(cutoff: float) -> None:
    response = np.abs(np.fft.fft2(make_sinc_kernel(cutoff, 21), (128, 128)))[0, :65]
    omega = np.linspace(0, math.pi, 65)
    assert response[omega < cutoff - 0.35].min() > 0.85
    assert response[omega > cutoff + 0.45].max(initial=0) < 0.15


# ---- on batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    hr = tensor(photograph(64)).expand(6, -1, -1, -1)
    whole = degrade_batch(hr, name, rngs(6))
    alone = [degrade_batch(hr[:1], name, [rng])[0] for rng in rngs(6)]
    assert whole.shape == (6, 3, 16, 16) and torch.equal(whole, torch.stack(alone))
    assert not torch.equal(whole[0], whole[1])


def test_batches_say_what_they_cannot_do() -> None:
    with pytest.raises(
        ConfigError, match="no degradation 'light' on batches; known are ftsr-authors, ftsr, real-esrgan"
    ):
        degrade_batch(torch.zeros(1, 3, 16, 16), "light", rngs(1))
    with pytest.raises(ImageError, match="30 x 16, expected multiples of 4"):
        degrade_batch(torch.zeros(1, 3, 16, 30), "ftsr", rngs(1))


def test_together_leaves_the_others_in_their_places() -> None:
    images = [torch.full((1, 1, 1), float(i)) for i in range(5)]
    calls = []

    def negate(batch: torch.Tensor, which: list[int]) -> torch.Tensor:
        calls.append(which)
        return -batch

    done = run_in_batches(images, ["a", None, "b", "a", None], negate)
    assert [float(d) for d in done] == [0, 1, -2, -3, 4] and calls == [[0, 3], [2]]


def test_both_sets_of_tools_do_the_same_to_an_image() -> None:
    """One recipe without noise: OpenCV's and torch's results differ by rounding and by how `area` is understood."""
    hr, kernel = photograph(), draw_kernel(REAL_ESRGAN.first.kernels, np.random.default_rng(3))
    from train.data.degradation.recipes import Pictures

    one, two = Pictures(), Tensors()
    a, b = one.blur([hr], [kernel]), two.blur([tensor(hr)], [kernel])
    a, b = one.blur([a[0][:5, :9]], [kernel]) + a, two.blur([b[0][:, :5, :9]], [kernel]) + b  # smaller than the kernel
    assert np.abs(a[0] - b[0].numpy().transpose(1, 2, 0)).max() < 1e-5
    a, b = a[1:], b[1:]
    for way in ("linear", "cubic"):
        a, b = one.resize(a, [(40, 52)], [way]), two.resize(b, [(40, 52)], [way])
    a, b = one.jpeg(a, [80.0]), two.jpeg(b, [80.0])
    difference = np.abs(a[0] - b[0].numpy().transpose(1, 2, 0))
    assert np.median(difference) < 1e-3 and difference.max() < 0.06


def test_the_stream_that_trained_models_saw_is_still_the_same() -> None:
    """`degrade` draws in the order it always did: the shipped model's configs mean what they meant."""
    y, x = np.mgrid[0:96, 0:128].astype(np.float32)
    hr = np.stack([0.5 + 0.5 * np.sin(x / 3 + y / 7), x / 127, y / 95], 2).astype(np.float32)
    for name, expected in {"ftsr": (0.6882, 0.3712, 0.4713), "real-esrgan": (0.6873, 0.3899, 0.5083)}.items():
        assert degrade_image(hr, name, np.random.default_rng(7))[10, 10] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("tools", ["opencv", "torch"])
def test_a_folder_becomes_pairs(tools: str, tmp_path: Path) -> None:
    """Each image twice, cut to multiples of 4, another draw each time, the same again by the same seed."""
    from train.data.degradation.__main__ import main
    from train.data.pairs import open_pairs

    (tmp_path / "in").mkdir()
    Image.fromarray((photograph(66) * 255).astype(np.uint8)).save(tmp_path / "in" / "a.png")
    options = ["--preset", "ftsr-authors", "--draws", "2", "--tools", tools]
    for out in ("one", "two"):
        assert main([str(tmp_path / "in"), str(tmp_path / out), *options]) == 0
    one, two = (open_pairs(tmp_path / out) for out in ("one", "two"))
    assert (
        [pair.key for pair in one] == ["a-0", "a-1"]
        and one[0].hr.shape == (64, 64, 3)
        and one[0].lr.shape == (16, 16, 3)
    )
    assert (one[0].lr == two[0].lr).all() and (one[0].lr != one[1].lr).any()
    with pytest.raises(SystemExit, match="holds no images"):
        main([str(tmp_path / "one" / "none"), str(tmp_path / "three")])
