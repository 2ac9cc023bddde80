"""Metrics against independent implementations, and against what can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tadisr import ConfigError, ImageError
from tadisr.ocr import Line, Reader
from train.data.pairs import Label
from train.evaluation import backbones, bootstrap, lines, metrics
from train.evaluation.bootstrap import Ratio
from train.psnr import compute_psnr

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def two() -> tuple[np.ndarray, np.ndarray]:
    """An image with structure, and the same with noise."""
    rows, columns = np.mgrid[0:70, 0:90]
    first = 127 + 100 * np.sin(np.stack([rows / 3, columns / 5, (rows + columns) / 7], -1))
    second = first + RNG.normal(0, 12, first.shape)
    return tuple(a.clip(0, 255).round().astype(np.uint8) for a in (first, second))  # pyright: ignore[reportReturnType]


def test_psnr_is_that_of_others(two: tuple[np.ndarray, np.ndarray]) -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr

    ours = compute_psnr(*two)
    assert ours == pytest.approx(peak_signal_noise_ratio(*two, data_range=255), abs=1e-9)
    one, other = (torch.from_numpy(a).double() for a in two)
    assert ours == pytest.approx(float(torch_psnr(one, other, data_range=255.0)), abs=1e-4)
    assert compute_psnr(two[0], two[0]) == 100
    by_hand = np.zeros((4, 4, 3), np.uint8)
    assert compute_psnr(by_hand, by_hand + 1) == pytest.approx(20 * np.log10(255))


def test_ssim_is_that_of_others(two: tuple[np.ndarray, np.ndarray]) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert metrics.compute_ssim(*two) == pytest.approx(structural_similarity(*two, channel_axis=2, **options), abs=1e-9)
    lumas = [metrics.compute_luma(a) for a in two]
    assert metrics.compute_ssim(*lumas) == pytest.approx(structural_similarity(*lumas, **options), abs=1e-9)
    one, other = (torch.from_numpy(a).double().permute(2, 0, 1)[None] for a in two)
    _, theirs = structural_similarity_index_measure(one, other, data_range=255.0, sigma=1.5, return_full_image=True)
    within = float(theirs[..., 5:-5, 5:-5].mean())  # torchmetrics' own mean also counts a reflected border
    assert metrics.compute_ssim(*two) == pytest.approx(within, abs=1e-9)
    assert metrics.compute_ssim(two[0], two[0]) == pytest.approx(1)


def test_ssim_padded_with_zeros_is_the_authors(two: tuple[np.ndarray, np.ndarray]) -> None:
    """Their code: images in [0, 1], one 11 x 11 window, a convolution that pads with 5 zeros, the mean of the whole map."""
    x, y = (torch.from_numpy(a).double().permute(2, 0, 1)[None] / 255 for a in two)
    taps = torch.exp(-((torch.arange(11).double() - 5) ** 2) / (2 * 1.5**2))
    window = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 11, 11)

    def blur(image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(image, window, padding=5, groups=3)

    mx, my = blur(x), blur(y)
    vx, vy, both = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = float(((2 * mx * my + c1) * (2 * both + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    assert metrics.compute_ssim(*two, padding="zeros") == pytest.approx(expected, abs=1e-9)
    assert abs(metrics.compute_ssim(*two, padding="zeros") - metrics.compute_ssim(*two)) > 1e-4


def test_ssim_of_an_image_smaller_than_its_window_is_refused() -> None:
    with pytest.raises(ImageError, match="12x10 is too small for SSIM"):
        metrics.compute_ssim(np.zeros((10, 12, 3)), np.zeros((10, 12, 3)))


def test_luma_is_in_video_range(two: tuple[np.ndarray, np.ndarray]) -> None:
    from skimage.color import rgb2ycbcr

    np.testing.assert_allclose(metrics.compute_luma(two[0]), rgb2ycbcr(two[0])[..., 0], atol=1e-9)
    ends = metrics.compute_luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    np.testing.assert_allclose(ends, [[16, 235]], atol=1e-9)


def test_mask_counts_by_hand() -> None:
    mask, target = np.array([[255, 200, 0, 0]]), np.array([[255, 0, 255, 0]])
    assert metrics.count_mask_pixels(mask, target) == (1, 1, 1)


@pytest.mark.parametrize(("n", "m"), [(5, 7), (30, 25)])  # fewer and more images than features
def test_frechet_is_the_formula(n: int, m: int) -> None:
    """Against the root of the covariances' product, by scipy."""
    from scipy.linalg import sqrtm

    one, other = RNG.normal(size=(n, 12)), RNG.normal(0.5, 2, size=(m, 12))
    s1, s2 = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    root = np.trace(np.real(sqrtm(s1 @ s2 + 1e-12 * np.eye(12))))
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(s1) + np.trace(s2) - 2 * root
    assert metrics.frechet_distance(one, other) == pytest.approx(expected, rel=1e-4)
    assert metrics.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


# ---- backbones ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's own folder of weights, empty, and no way to the network."""

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("something wanted to download")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_a_backbone_that_is_not_there_is_named(hub: Path) -> None:
    lpips, inception = backbones.load_lpips("alex", torch.device("cpu")), backbones.load_inception(torch.device("cpu"))
    assert str(lpips) == f"backbone missing: {hub}/alexnet-owt-7be5be79.pth"
    assert str(inception) == f"backbone missing: {hub}/weights-inception-2015-12-05-6726825d.pth"
    assert str(backbones.load_lpips("vgg", torch.device("cpu"))) == f"backbone missing: {hub}/vgg16-397923af.pth"


def test_lpips_from_a_file_is_the_formula(hub: Path, two: tuple[np.ndarray, np.ndarray]) -> None:
    """Random weights in AlexNet's file; the sum over five layers worked out from torchvision's own network."""
    import lpips as package
    import torchvision

    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet(weights=None).eval()
    torch.save(alexnet.half().state_dict(), hub / "alexnet-owt-7be5be79.pth")
    alexnet.float()
    ours = backbones.load_lpips("alex", torch.device("cpu"))
    assert isinstance(ours, backbones.Lpips) and ours.key.startswith("lpips-alex-")
    learned = torch.load(Path(package.__file__).parent / "weights" / "v0.1" / "alex.pth", "cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    expected, layers = 0.0, (1, 4, 7, 9, 11)  # the ReLUs
    activations = []
    alexnet.requires_grad_(False)
    for pixels in two:
        x = torch.from_numpy(pixels).float().permute(2, 0, 1)[None] / 127.5 - 1
        x = (x - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
        found = []
        for number, layer in enumerate(alexnet.features):
            x = layer(x)
            found += [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)] if number in layers else []
        activations.append(found)
    for i, (a, b) in enumerate(zip(*activations, strict=True)):
        expected += float(((a - b).square() * learned[f"lin{i}.model.1.weight"]).sum(1).mean())
    assert ours(*two) == pytest.approx(expected, rel=1e-4) and expected > 0
    assert ours(two[0], two[0]) == 0
    unit = backbones.load_lpips("alex", torch.device("cpu"), value_range="unit")
    assert isinstance(unit, backbones.Lpips) and unit.key == f"{ours.key}-unit"
    as_theirs = [torch.from_numpy(pixels).float().permute(2, 0, 1)[None] / 255 for pixels in two]
    assert unit(*two) == pytest.approx(float(unit.network(*as_theirs)), rel=1e-6) and unit(*two) != ours(*two)


@pytest.mark.slow
def test_inceptions_features_are_torchmetrics(hub: Path) -> None:
    """Random weights in the real format, read by ours and by torchmetrics' FID."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import FrechetInceptionDistance

    torch.save(inception_with_random_weights(FeatureExtractorInceptionV3), hub / backbones.INCEPTION)
    ours = backbones.load_inception(torch.device("cpu"))
    assert isinstance(ours, backbones.Inception) and ours.key.startswith("inception-")
    theirs = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(hub / backbones.INCEPTION))
    pixels = RNG.integers(0, 256, (40, 56, 3)).astype(np.uint8)
    expected = theirs.inception(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    np.testing.assert_allclose(ours(pixels), expected[0].numpy(), rtol=1e-4, atol=1e-5)
    assert ours(pixels).shape == (2048,) and ours(pixels).std() > 0


def test_fid_of_features_is_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Means(torch.nn.Module):
        """Twelve features of an image: four means of each channel."""

        num_features = 12

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(x.double(), 2).flatten(1)

    pictures = torch.from_numpy(RNG.integers(0, 200, (40, 3, 32, 32)).astype(np.uint8))
    pictures[20:] += 30
    theirs = FrechetInceptionDistance(feature=Means(), input_img_size=(3, 32, 32)).set_dtype(torch.float64)
    theirs.update(pictures[:20], real=True)
    theirs.update(pictures[20:], real=False)
    features = Means()(pictures).numpy()
    assert metrics.frechet_distance(features[20:], features[:20]) == pytest.approx(float(theirs.compute()), rel=1e-4)


def inception_with_random_weights(kind: Callable[..., torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The weights of a network that is built without reading a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        patch.setattr(torch, "load", lambda *_arguments, **_options: {})
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        torch.manual_seed(0)
        network = kind("inception-v3-compat", ["2048"])
    return network.state_dict()


# ---- intervals ------------------------------------------------------------------------------------------------------


def test_intervals_hold_what_they_say() -> None:
    """Of 200 samples of a known mean about 95 in 100 intervals hold it."""
    held = 0
    for seed in range(200):
        ratio = Ratio.mean(np.random.default_rng(seed).normal(3, 1, 60).tolist())
        found = bootstrap.confidence_interval(ratio, bootstrap.draw_samples(60, 400, seed))
        assert found is not None
        held += found[0] <= 3 <= found[1]
    assert 180 <= held <= 198


def test_intervals_by_hand() -> None:
    drawn = bootstrap.draw_samples(4, 500, 0)
    assert drawn.shape == (500, 4) and (drawn.sum(1) == 4).all()
    assert (drawn == bootstrap.draw_samples(4, 500, 0)).all() and (drawn != bootstrap.draw_samples(4, 500, 1)).any()
    same = Ratio.mean([2.0, 2.0, None, 2.0])
    assert same.value == 2 and bootstrap.confidence_interval(same, drawn) == (2, 2)
    better, worse = Ratio.mean([1.0, 5.0, 9.0, 3.0]), Ratio.mean([0.5, 4.5, 8.5, 2.5])
    found = bootstrap.difference_interval(
        better, worse, drawn
    )  # paired: half a point on every image, without any doubt
    assert found == pytest.approx((0.5, 0.5, 0.5))
    assert Ratio.mean([None, None]).value is None
    assert bootstrap.confidence_interval(Ratio.mean([None] * 4), drawn) is None
    assert bootstrap.difference_interval(better, Ratio.mean([None] * 4), drawn) is None
    share = Ratio(np.array([1.0, 2.0]), np.array([4.0, 4.0]))
    assert share.value == 3 / 8


# ---- lines ----------------------------------------------------------------------------------------------------------


def line(text: str, width: float = 100, height: float = 30, degrees: float = 0) -> Line:
    angle = np.deg2rad(degrees)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return Line(text, 0.9, (corners @ turn).astype(np.float32))


@pytest.mark.parametrize(
    ("text", "language"),
    [("EXIT 12", "Latin"), ("出口", "Chinese"), ("A出口", "both"), ("12:30", "digits"), ("—", "other"), ("Вход", "other"),
     ("ｅｘｉｔ", "Latin"), ("出口です", "other")],
)  # fmt: skip
def test_lines_are_classified_by_script(text: str, language: str) -> None:
    assert lines.classify_language(line(text)) == language


def test_sizes_and_orientations() -> None:
    sizes = [lines.classify_size(line("x", 100, height)) for height in (10, 23.5, 24.5, 47, 60)]
    assert [lines.SIZES.index(size) for size in sizes] == [0, 0, 1, 1, 2]
    assert lines.classify_size(line("x", 20, 90)) == lines.SIZES[0]  # a vertical line is as large as it is wide
    turned = [(0, "level"), (4, "level"), (8, "slanted"), (-30, "slanted")]
    assert all(lines.classify_orientation(line("x", degrees=degrees)) == kind for degrees, kind in turned)
    assert lines.classify_orientation(line("x", 20, 90)) == "vertical"


def test_overlap_by_hand() -> None:
    one, other = (np.array([[x, 0], [x + 4, 0], [x + 4, 2], [x, 2]], np.float32) for x in (0, 2))
    assert metrics.quad_iou(one, other) == pytest.approx(4 / 12) and metrics.quad_iou(one, one) == pytest.approx(1)
    assert metrics.quad_iou(one, other + 100) == 0
    turned = np.array([[2, -1], [4, 1], [2, 3], [0, 1]], np.float32)  # a square on its corner: area 8, 6 of it shared
    assert metrics.quad_iou(one, turned) == pytest.approx(6 / (8 + 8 - 6))


def test_spotting_by_hand() -> None:
    """Four labels: one read right, one read wrong, one found twice, one missed; one without a box does not count."""

    def at(top: float, text: str, shift: float = 0) -> Line:
        return Line(
            text,
            0.9,
            np.array([[shift, top], [40 + shift, top], [40 + shift, top + 10], [shift, top + 10]], np.float32),
        )

    def label(top: float, text: str) -> Label:
        return Label(text, tuple((float(x), float(y)) for x, y in at(top, text).box))

    labels = [label(0, "Exit 12"), label(20, "OPEN"), label(40, "SHOP"), label(60, "lost"), Label("somewhere")]
    found = [at(0, "EXIT12", 2), at(20, "OPFN"), at(40, "SHOO"), at(40, "shop", 5), at(60, "lost", 30), at(90, "noise")]
    assert lines.spot_lines(labels, found) == (4, 6, 3, 2)
    assert lines.spot_lines(labels, []) == (4, 0, 0, 0) and lines.spot_lines([Label("x")], found) == (0, 6, 0, 0)


class Fixed(Reader):
    """Reads what it is told; the matching of labels is what is tried."""

    name = "fixed"

    def __init__(self, found: list[str]) -> None:
        self.found = found

    def detect_lines(self, pixels: np.ndarray) -> list[np.ndarray]:
        return [line("").box + 40 * i for i in range(len(self.found))]

    def recognize_line(self, crop: np.ndarray) -> tuple[str, float]:
        return self.found.pop(0), 0.9


def test_labels_without_boxes_are_matched_one_to_one() -> None:
    labels = [Label("OPEN"), Label("CLOSED"), Label("nowhere")]
    pairs = lines.read_labelled(labels, torch.ones(1, 3, 200, 200), Fixed(["CLOSEO", "OPEN"]))
    assert [(a.text, b.text) for a, b in pairs] == [("OPEN", "OPEN"), ("CLOSED", "CLOSEO"), ("nowhere", "")]
    assert [b.text for _, b in lines.read_labelled(labels[:1], torch.ones(1, 3, 9, 9), Fixed([]))] == [""]
    boxed = [Label("A", ((0, 0), (50, 0), (50, 20), (0, 20))), Label("B")]
    pairs = lines.read_labelled(boxed, torch.ones(1, 3, 200, 200), Fixed(["a", "B"]))
    assert [(a.text, b.text) for a, b in pairs] == [("A", "a"), ("B", "B")]


def test_fid_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    import sys

    (hub / backbones.INCEPTION).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ConfigError, match="needs the package torch-fidelity"):
        backbones.load_inception(torch.device("cpu"))
