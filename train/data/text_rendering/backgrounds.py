"""Backgrounds of rendered text: pieces of the user's photographs, or procedural textures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tadisr.errors import ConfigError

Array = NDArray[Any]  # float32

PHOTOGRAPHS = 80  # kept in memory at most, each at most 1600 pixels on its shorter side


def draw_background(size: int, photographs: list[NDArray[np.uint8]], rng: Generator, *, walls: float = 0.1) -> Array:
    """Draw a background (S, S, 3): a piece of a photo, or a procedural one if there are none; masonry for a share of
    `walls`.
    """
    share = rng.random()
    if share < walls:
        return draw_masonry(size, rng)
    if not photographs or share < walls + 0.1:
        return draw_procedural(size, rng)
    photograph = photographs[int(rng.integers(len(photographs)))]
    side = min(photograph.shape[:2])
    cut = int(np.clip(size * rng.uniform(1.3, 4.0), 8, side))
    top, left = (int(rng.integers(extent - cut + 1)) for extent in photograph.shape[:2])
    piece = photograph[top : top + cut, left : left + cut]
    way = cv2.INTER_AREA if cut > size else cv2.INTER_CUBIC
    ground = cv2.resize(piece, (size, size), interpolation=way).astype(np.float32) / 255
    return np.ascontiguousarray(ground[:, ::-1]) if rng.random() < 0.5 else ground


def draw_procedural(size: int, rng: Generator) -> Array:
    """Draw two colours mixed by a gradient, stripes, or soft noise."""
    first, second = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    way = rng.integers(3)
    if way == 0:
        mix = draw_gradient(size, rng)
    elif way == 1:
        mix = (np.sin(draw_gradient(size, rng) * rng.uniform(10, 120)) > rng.uniform(-0.5, 0.5)).astype(np.float32)
    else:
        coarse = rng.uniform(0, 1, (int(rng.integers(3, 24)),) * 2).astype(np.float32)
        mix = np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
    return first + (second - first) * mix[..., None]


def draw_masonry(size: int, rng: Generator) -> Array:
    """Draw bricks or tiles, slightly rotated: their joints are as thin as strokes but are not text."""
    height = rng.uniform(10, 70)
    width = height * (rng.uniform(1.8, 3.5) if rng.random() < 0.7 else 1.0)
    offset = rng.choice([0.0, 0.5, 0.5, 1 / 3])  # of a course against the one below
    joint = max(1.0, height * rng.uniform(0.04, 0.2))
    angle = rng.normal(0, 0.08)
    y, x = np.meshgrid(np.arange(size, dtype=np.float32), np.arange(size, dtype=np.float32), indexing="ij")
    along, up = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    course = np.floor(up / height)
    along = along / width + course * offset + rng.uniform(0, 1)
    edge = np.minimum(_to_edge(up / height) * height, _to_edge(along) * width)  # pixels to the nearest joint's middle
    mortar = np.clip(joint / 2 - edge + 0.5, 0, 1)[..., None]
    brick, filling = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    number = (course * 57 + np.floor(along)).astype(np.int64) % 101  # every brick burnt otherwise
    tones = rng.normal(0, rng.uniform(0.01, 0.08), (101, 3)).astype(np.float32)
    wall = brick + tones[number]
    return np.clip(wall + (filling - wall) * mortar, 0, 1).astype(np.float32)


def _to_edge(place: Array) -> Array:
    """The distance to the nearest whole number."""
    return np.abs(place - np.round(place))


def draw_gradient(size: int, rng: Generator) -> Array:
    """Draw a ramp from 0 to 1 in a random direction, (S, S)."""
    angle = rng.uniform(0, 2 * math.pi)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = math.cos(angle) * axis[None] + math.sin(angle) * axis[:, None]
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def load_photos(folders: list[Path]) -> list[NDArray[np.uint8]]:
    """Load up to PHOTOGRAPHS images, evenly from all in the folders, in a fixed order."""
    missing = [folder for folder in folders if not folder.is_dir()]
    if missing:
        raise ConfigError(f"There is no folder of backgrounds {missing[0]}.")
    kinds = {".jpg", ".jpeg", ".png", ".webp"}
    files = sorted(
        p for folder in folders for p in folder.rglob("*") if p.suffix.lower() in kinds and not p.is_symlink()
    )
    photographs, seen = [], set()
    for path in files:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None or min(image.shape[:2]) < 700:
            continue
        thumbnail = cv2.resize(image, (8, 8), interpolation=cv2.INTER_AREA)
        key = (thumbnail // 24).tobytes()  # the folders hold many images in several sizes
        if key in seen:
            continue
        seen.add(key)
        factor = min(1.0, 1600 / min(image.shape[:2]))
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        photographs.append(np.ascontiguousarray(small[..., ::-1]))
    step = max(1, math.ceil(len(photographs) / PHOTOGRAPHS))
    return photographs[::step]
