"""Check whether two photographs are aligned, and register one to the other.

Everything is measured on luma at one common size, the HR image softened as far as the LR one is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Luma = NDArray[Any]  # float32 (h, w), 0 to 255
Matrix = NDArray[Any]  # float64 (2, 3): from the HR image's places to the LR image's

BLOCK = 128  # side of the windows in which what is left is measured
CONTRAST = 4.0  # a window with less of it says nothing of where it lies
SURE = 0.08  # of a phase correlation's peak, from which on it is believed
FEATURES = 3000
MATCHES = 20  # fewer that agree are no evidence


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Residuals that a pair may have after correction, in pixels of the common size, to count as aligned."""

    residual: float = 2.0  # nine of ten windows are off by less
    correlation: float = 0.75  # of the two images
    windows: float = 0.1  # share of the windows that must say anything at all


@dataclass(frozen=True)
class Alignment:
    """shift, scale, rotation: of the LR image as it was found; residual, correlation: what is left after correction."""

    way: str  # as it is, shift (phase correlation), affine (ORB, refined by ECC)
    shift: tuple[float, float]  # pixels right and down, at the image's middle
    scale: float
    rotation: float  # degrees
    matches: int  # of ORB features that agree
    match_error: float | None  # their median distance after correction, pixels
    residual: float | None  # 9 of 10 windows are off by less than this, pixels
    correlation: float
    windows: float  # share of windows that could be measured

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def find_fault(self, limits: Limits) -> str:
        """Say why the pair is not aligned, in a few words; empty if it is."""
        if self.residual is None or self.windows < limits.windows:
            return f"nothing to measure by in {1 - self.windows:.0%} of it"
        if self.correlation < limits.correlation:
            return f"correlation {self.correlation:.2f} < {limits.correlation}"
        if self.residual > limits.residual:
            return f"residual {self.residual:.1f} px > {limits.residual}"
        return ""


def compute_luma(image: NDArray[Any]) -> Luma:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def align_pair(hr: Luma, lr: Luma, *, factor: float = 4.0) -> tuple[Alignment, Matrix]:
    """Align an LR image to HR, both (h, w) at one size; factor: how much coarser the LR camera saw.

    Of three corrections, none, a shift and an affine map, the one with the highest correlation is returned.
    """
    hr = cv2.GaussianBlur(hr, (0, 0), max(0.5, factor / 3))
    candidates = {"as it is": np.eye(2, 3), "shift": estimate_shift(hr, lr)}
    points = match_features(hr, lr)
    found, inside = (None, None) if len(points[0]) < MATCHES else estimate_similarity(*points)
    agreeing = 0 if inside is None else int(inside.sum())
    if found is not None and agreeing >= MATCHES:
        candidates["affine"] = refine_ecc(hr, lr, found)
    scores = {way: correlate_luma(hr, *warp_image(lr, matrix)) for way, matrix in candidates.items()}
    way = max(scores, key=lambda name: scores[name] + (0.002 if name == "as it is" else 0))
    matrix = candidates[way]
    residual, share = measure_residual(hr, *warp_image(lr, matrix))
    error = None
    if inside is not None and agreeing >= MATCHES:
        moved = points[0][inside] @ matrix[:, :2].T + matrix[:, 2]
        error = float(np.median(np.hypot(*(moved - points[1][inside]).T)))
    middle = np.array([hr.shape[1] / 2, hr.shape[0] / 2])
    right, down = matrix[:, :2] @ middle + matrix[:, 2] - middle
    return (
        Alignment(
            way,
            (round(float(right), 2), round(float(down), 2)),
            round(float(np.sqrt(np.linalg.det(matrix[:, :2]))), 5),
            round(float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))), 3),
            agreeing,
            None if error is None else round(error, 2),
            None if residual is None else round(residual, 2),
            round(scores[way], 4),
            round(share, 3),
        ),
        matrix,
    )


def gradient_strength(image: Luma) -> Luma:
    """Compute the gradient's strength, which does not depend on exposure."""
    return cv2.magnitude(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))


def estimate_shift(hr: Luma, lr: Luma) -> Matrix:
    """Estimate the shift by phase correlation of the whole images."""
    window = cv2.createHanningWindow((hr.shape[1], hr.shape[0]), cv2.CV_32F)
    (right, down), _ = cv2.phaseCorrelate(gradient_strength(hr), gradient_strength(lr), window)
    return np.array([[1, 0, right], [0, 1, down]], np.float64)


def match_features(hr: Luma, lr: Luma) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Match ORB features that are each other's nearest -> places (n, 2) in both images."""
    orb = cv2.ORB.create(FEATURES, fastThreshold=8)
    places, words = zip(
        *(orb.detectAndCompute(np.clip(i, 0, 255).astype(np.uint8), None) for i in (hr, lr)), strict=True
    )
    if any(word is None or len(word) < MATCHES for word in words):
        return np.zeros((0, 2)), np.zeros((0, 2))
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(*words)
    one = np.array([places[0][p.queryIdx].pt for p in pairs], np.float64).reshape(-1, 2)
    return one, np.array([places[1][p.trainIdx].pt for p in pairs], np.float64).reshape(-1, 2)


def estimate_similarity(
    one: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[Matrix | None, NDArray[np.bool_] | None]:
    """Estimate rotation, scale and shift by RANSAC with a fixed seed, and which matches agree."""
    cv2.setRNGSeed(0)
    matrix, inside = cv2.estimateAffinePartial2D(one, other, method=cv2.RANSAC, ransacReprojThreshold=3.0)
    if matrix is None or not 0.8 < np.sqrt(abs(np.linalg.det(matrix[:, :2]))) < 1.25:
        return None, None
    return matrix, inside.ravel().astype(bool)


def refine_ecc(hr: Luma, lr: Luma, matrix: Matrix) -> Matrix:
    """Refine by maximizing the correlation of edges (ECC); unchanged if it does not converge."""
    try:
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
        start = matrix.astype(np.float32)
        return cv2.findTransformECC(gradient_strength(hr), gradient_strength(lr), start, cv2.MOTION_AFFINE, criteria)[
            1
        ].astype(np.float64)
    except cv2.error:
        return matrix


def warp_image(lr: NDArray[Any], matrix: Matrix) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Warp the LR image to the HR camera's view, and mark the pixels it covers."""
    size = (lr.shape[1], lr.shape[0])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(np.ones(lr.shape[:2], np.uint8), matrix, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP)
    return cv2.warpAffine(lr, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), seen.astype(bool)


def correlate_luma(hr: Luma, lr: Luma, seen: NDArray[np.bool_]) -> float:
    """Compute the Pearson correlation of high-passed luma over the common pixels; -1 if fewer than half are common."""
    if seen.mean() < 0.5:
        return -1.0
    one, other = (image - cv2.GaussianBlur(image, (0, 0), 32) for image in (hr, lr))
    one, other = one[seen] - one[seen].mean(), other[seen] - other[seen].mean()
    power = float(np.sqrt((one * one).mean() * (other * other).mean()))
    return float((one * other).mean()) / power if power > 1e-6 else 0.0


def measure_residual(hr: Luma, lr: Luma, seen: NDArray[np.bool_]) -> tuple[float | None, float]:
    """Measure how far windows are displaced, the 90th percentile, and the share of windows that could be measured.

    A window counts by its own phase correlation. Parallax shows here: what is near moves otherwise than what is far.
    """
    block = min(BLOCK, *hr.shape)
    taper = cv2.createHanningWindow((block, block), cv2.CV_32F)
    one, other = gradient_strength(hr), gradient_strength(lr)
    off, total = [], 0
    for top in range(0, hr.shape[0] - block + 1, block // 2):
        for left in range(0, hr.shape[1] - block + 1, block // 2):
            where = np.s_[top : top + block, left : left + block]
            if not seen[where].all():
                continue
            total += 1
            if min(hr[where].std(), lr[where].std()) < CONTRAST:
                continue
            a, b = np.ascontiguousarray(one[where]), np.ascontiguousarray(other[where])
            (right, down), sure = cv2.phaseCorrelate(a, b, taper)
            if sure > SURE:
                off.append(float(np.hypot(right, down)))
    if not off:
        return None, 0.0
    return float(np.quantile(off, 0.9)), len(off) / total
