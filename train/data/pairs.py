"""Pairs of LR and HR images on disk, with text masks and labels where there are any.

Three layouts are known by their HR folder; files belong together by their names without suffixes:

    FTSR      gt/ sr_bicubic/ mask/, or lr/ instead of sr_bicubic/ (and before it, where both are there)
    Real-CE   52mm_aligned_1024/ 13mm_aligned_1024/ mask-52mm-bts-1024-v2/, aligned_list_train.txt, aligned_list_eval.txt
    plain     hr/ lr/, and mask/ if there is one

An LR file is a quarter of its HR image, or already brought to its size, as sr_bicubic/ and 13mm_aligned_1024/ are:
then it is the network's input itself, and the LR image is made from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tadisr.config import SCALE
from tadisr.errors import ConfigError, ImageError
from tadisr.images import from_pil, from_pixels, resize_image, to_pil, to_pixels

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB, or (H, W) for a mask
Split = Literal["auto", "all", "train", "test"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm"}
FTSR_TRAIN = 45_000  # FTSR's first images train, the rest test (Sec. 4.1)


@dataclass(frozen=True)
class Layout:
    """The folders of a data set, the first that exists of each, and the lists that split it."""

    name: str
    hr: str
    lr: tuple[str, ...]
    mask: tuple[str, ...]
    lists: dict[str, str]


LISTS = {"train": "train.txt", "test": "test.txt"}
LAYOUTS = (
    Layout("FTSR", "gt", ("lr", "sr_bicubic"), ("mask",), LISTS),
    Layout(
        "Real-CE", "52mm_aligned_1024", ("13mm_aligned_1024",), ("mask-52mm-bts-1024-v2",),
        {"train": "aligned_list_train.txt", "test": "aligned_list_eval.txt"},
    ),
    Layout("plain", "hr", ("lr",), ("mask",), LISTS),
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """A line of text that a human read, and where it stands; None: somewhere in the image."""

    text: str
    box: tuple[tuple[float, float], ...] | None = None  # four corners in HR pixels, clockwise from the line's top left


@dataclass(frozen=True)
class Pair:
    """One image twice. Nothing is read before it is asked for, nor kept: arrays are uint8, (H, W, 3) in RGB.

    Reading raises ImageError for a broken file and for sizes that do not belong together.
    """

    key: str  # the file's place under its folder, without suffix
    hr_path: Path
    lr_path: Path
    mask_path: Path | None = None
    label: tuple[Label, ...] | None = None

    @property
    def hr(self) -> Pixels:
        return read_rgb(self.hr_path)

    @property
    def is_upscaled(self) -> bool:
        """Tell whether the LR file already has HR's size and is fed as it is, see `upscaled`."""
        return self._check() == self.size

    @property
    def lr(self) -> Pixels:
        """(H/4, W/4, 3); made from an LR file of HR's size by bicubic with antialiasing, its sides rounded up."""
        pixels = read_rgb(self.lr_path)
        if not self.is_upscaled:
            return pixels
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((0, -height % SCALE), (0, -width % SCALE), (0, 0)), "edge")
        return resize_pixels(padded, (padded.shape[0] // SCALE, padded.shape[1] // SCALE))

    @property
    def upscaled(self) -> Pixels:
        """(H, W, 3), what the network is fed: the LR file where it has HR's size, else the LR image x4, bicubic."""
        pixels = read_rgb(self.lr_path)
        return pixels if self.is_upscaled else resize_pixels(pixels, self.size)

    @property
    def mask(self) -> Pixels | None:
        """(H, W), 255 where text is; a file of zeros and ones is brought to that."""
        if self.mask_path is None:
            return None
        with _open(self.mask_path) as file:
            pixels = np.array(ImageOps.exif_transpose(file).convert("L"))
        if pixels.shape != self.size:
            raise ImageError(
                f"{self.mask_path} is {_by(pixels.shape)}, {self.hr_path} {_by(self.size)}: expected the same."
            )
        return pixels * np.uint8(255) if pixels.max(initial=0) == 1 else pixels

    @property
    def size(self) -> tuple[int, int]:
        """HR's height and width, from the file's header."""
        return read_size(self.hr_path)

    def _check(self) -> tuple[int, int]:
        """The LR file's size. Raises ImageError unless it is HR's or a quarter of it."""
        size, (height, width) = read_size(self.lr_path), self.size
        if size not in ((height, width), (height / SCALE, width / SCALE)):
            raise ImageError(
                f"{self.lr_path} is {_by(size)}, {self.hr_path} {_by((height, width))}: expected LR images of the same "
                f"size, or of exactly a quarter of it. Crop the HR images to a multiple of {SCALE}."
            )
        return size


class Pairs(Sequence[Pair]):
    """A data set's pairs in the order of their keys."""

    def __init__(self, pairs: Sequence[Pair], *, folder: Path, layout: str, split: str) -> None:
        self.pairs, self.folder, self.layout, self.split = tuple(pairs), folder, layout, split

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> Pairs: ...
    def __getitem__(self, index: int | slice) -> Pair | Pairs:
        if isinstance(index, slice):
            return Pairs(self.pairs[index], folder=self.folder, layout=self.layout, split=self.split)
        return self.pairs[index]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)


def open_pairs(folder: str | Path, *, split: Split = "auto") -> Pairs:
    """Open the pairs of a folder in one of the layouts above; files are listed, not read.

    split: `train` and `test` go by the layout's lists (train.txt and test.txt but for Real-CE, one name a line). FTSR without
    lists: the images numbered up to 45,000 train, the rest test (Sec. 4.1); of a smaller build the first nine tenths
    train. `all` is everything, and `auto` is the test part where there are lists or FTSR's numbers, else everything.
    Where there are lists, only what is on them counts. labels.json or labels.txt: see `read_labels`.
    Raises ConfigError for another layout, a split that is not there, and files without their partners.
    """
    folder = Path(folder)
    layout = find_layout(folder)
    hr_files = list_images(folder / layout.hr)
    lr_folder = _first(folder, layout.lr)
    if lr_folder is None:
        raise ConfigError(f"{folder} has {layout.hr}/, but no {'/ and no '.join(layout.lr)}/ with the LR images.")
    lr_files = list_images(lr_folder)
    mask_folder = _first(folder, layout.mask)
    mask_files = {} if mask_folder is None else list_images(mask_folder)
    keys, part = choose_split(folder, layout, sorted(hr_files), split)
    for files, where in ((hr_files, folder / layout.hr), (lr_files, lr_folder), (mask_files, mask_folder)):
        missing = [key for key in keys if key not in files]
        if where is not None and missing:
            raise ConfigError(f"{where} has no image {missing[0]} ({len(missing)} of {len(keys)} are missing).")
    extra = sorted(lr_files.keys() - hr_files.keys())
    if extra and layout.name != "Real-CE":  # whose folders hold more than its lists
        raise ConfigError(f"{folder / layout.hr} has no image {extra[0]}, {lr_folder} has ({len(extra)} such).")
    labels = read_labels(folder)
    unknown = sorted((labels or {}).keys() - hr_files.keys())
    if unknown:
        raise ConfigError(f"The labels of {folder} name {unknown[0]}, which is not in {layout.hr}/.")
    pairs = [
        Pair(key, hr_files[key], lr_files[key], mask_files.get(key), None if labels is None else labels.get(key, ()))
        for key in keys
    ]
    return Pairs(pairs, folder=folder, layout=layout.name, split=part)


def find_layout(folder: Path) -> Layout:
    """Find the layout of a folder by its subfolders. Raises ConfigError."""
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}.")
    found = [layout for layout in LAYOUTS if (folder / layout.hr).is_dir()]
    if len(found) != 1:
        what = "none" if not found else " and ".join(f"{layout.hr}/" for layout in found)
        known = ", ".join(f"{layout.hr}/ ({layout.name})" for layout in LAYOUTS)
        raise ConfigError(f"{folder} has {what} of the folders that hold HR images; expected exactly one of {known}.")
    return found[0]


def list_images(folder: Path) -> dict[str, Path]:
    """List every image under a folder by its relative path without suffix. Raises ConfigError if two share one."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise ConfigError(f"{found[key]} and {path} have one name: keep one of them.")
            found[key] = path
    return found


def choose_split(folder: Path, layout: Layout, keys: list[str], split: str) -> tuple[list[str], str]:
    """Choose the keys of a split, and resolve `auto` to the split it stands for. Raises ConfigError."""
    if split not in ("auto", "all", "train", "test"):
        raise ConfigError(f"split is {split!r}, expected auto, all, train or test.")
    lists = {part: read_list(folder / name) for part, name in layout.lists.items() if (folder / name).is_file()}
    if not keys:
        raise ConfigError(f"{folder / layout.hr} has no images.")
    if not lists and layout.name == "FTSR":
        cut = count_training_keys(keys)
        lists = {"train": keys[:cut], "test": keys[cut:]}
    if split == "auto":
        split = "test" if "test" in lists else "all"
    if split == "all":
        return (sorted({key for part in lists.values() for key in part}) if lists else keys), split
    if split not in lists:
        raise ConfigError(
            f"{folder} has no {layout.lists[split]}, which would say what its {split} part is: ask for all."
        )
    if not lists[split]:
        raise ConfigError(f"The {split} part of {folder} is empty ({len(keys)} images in all).")
    return sorted(lists[split]), split


def count_training_keys(keys: list[str]) -> int:
    """Count how many of FTSR's sorted keys are for training."""
    later = [i for i, key in enumerate(keys) if key.isdigit() and int(key) > FTSR_TRAIN]
    return later[0] if later else len(keys) * 9 // 10


def read_list(path: Path) -> list[str]:
    """Read the names in a list, one per line, without suffixes and repetitions."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    return sorted({_key(line) for line in lines if line})


def _key(name: str) -> str:
    path = Path(name)
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix()


# ---- labels ---------------------------------------------------------------------------------------------------------


def read_labels(folder: Path) -> dict[str, tuple[Label, ...]] | None:
    """Read the transcripts of a folder's HR images, by key; None if there is no label file.

    labels.json: {name: [line, ...]}, a line being a text, or {"text": ..., "box": [[x, y] x4]}.
    labels.txt: `name TAB text`, or `name TAB x1,y1,x2,y2,x3,y3,x4,y4 TAB text`, a line of text a line; or PaddleOCR's own
    `name TAB [{"transcription": ..., "points": [[x, y] x4]}, ...]`. Text "###" (unreadable, by ICDAR's custom) is left out.
    Without either, the index.jsonl of a data set that train.synthesis has built: its crops' own labels, where they stand.
    Raises ConfigError for anything else.
    """
    as_json, as_text = folder / "labels.json", folder / "labels.txt"
    if as_json.is_file() and as_text.is_file():
        raise ConfigError(f"{folder} has both labels.json and labels.txt: keep one of them.")
    if not as_json.is_file() and not as_text.is_file():
        return read_index(folder / "index.jsonl")
    found: dict[str, list[Label]] = {}
    if as_json.is_file():
        for name, lines in _json(as_json.read_text(encoding="utf-8"), str(as_json)).items():
            lines = lines if isinstance(lines, list) else [lines]
            found[_key(name)] = [_label(line, f"{as_json}, {name}") for line in lines]
    else:
        for number, row in enumerate(as_text.read_text(encoding="utf-8-sig").splitlines(), 1):
            if row.strip():
                name, lines = _row(row, f"{as_text}, line {number}")
                found.setdefault(_key(name), []).extend(lines)
    return {key: tuple(line for line in lines if line.text != "###") for key, lines in found.items()}


def read_index(path: Path) -> dict[str, tuple[Label, ...]] | None:
    """Read the labels of crops with one line of text from index.jsonl, by the sample's id."""
    if not path.is_file():
        return None
    found: dict[str, tuple[Label, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = _json(line, f"{path}, line {number}")
        lines = []
        for crop in row.get("foregrounds", ()):
            left, top, width, height = crop["place"]
            if crop.get("label") and crop["line_height"] > 0.75 * min(width, height):
                right, bottom = left + width, top + height
                lines.append(Label(crop["label"], ((left, top), (right, top), (right, bottom), (left, bottom))))
        found[row["id"]] = tuple(lines)
    return found


def _row(row: str, where: str) -> tuple[str, list[Label]]:
    name, *rest = row.split("\t")
    if len(rest) == 1 and rest[0].startswith("["):
        return name, [_label(line, where) for line in _json(rest[0], where)]
    if len(rest) == 1:
        return name, [Label(rest[0])]
    if len(rest) == 2:
        try:
            numbers = [float(number) for number in rest[0].split(",")]
        except ValueError as error:
            raise ConfigError(f"{where}: {rest[0]!r} is no box, expected x1,y1,x2,y2,x3,y3,x4,y4.") from error
        corners = [numbers[i : i + 2] for i in range(0, len(numbers), 2)]
        return name, [_label({"text": rest[1], "box": corners}, where)]
    raise ConfigError(f"{where} has {len(rest) + 1} columns, expected a name, a box if there is one, and a text.")


def _label(line: Any, where: str) -> Label:
    if isinstance(line, str):
        return Label(line)
    if not isinstance(line, dict):
        raise ConfigError(f"{where}: {line!r} is no line of text, expected a text or a table with text and box.")
    text, box = line.get("text", line.get("transcription")), line.get("box", line.get("points"))
    if not isinstance(text, str):
        raise ConfigError(f"{where}: {line!r} has no text.")
    if box is None:
        return Label(text)
    try:
        corners = tuple((float(x), float(y)) for x, y in box)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {box!r} is no box, expected four corners [x, y].") from error
    if len(corners) != 4:
        raise ConfigError(f"{where}: the box of {text!r} has {len(corners)} corners, expected 4.")
    return Label(text, corners)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}.") from error


# ---- images -------------------------------------------------------------------------------------------------------


def read_rgb(path: Path) -> Pixels:
    """Read an image as (H, W, 3) uint8, rotated as EXIF says, without transparency. Raises ImageError."""
    with _open(path) as file:
        upright = ImageOps.exif_transpose(file)
        if upright.mode.startswith("I"):  # 16 bits
            upright = to_pil(from_pil(upright))
        return np.array(upright.convert("RGB"))


def read_size(path: Path) -> tuple[int, int]:
    """Read height and width from the header, as `read_rgb` would return them."""
    with _open(path) as file:
        turned = file.getexif().get(0x0112, 1) >= 5
        return (file.width, file.height) if turned else (file.height, file.width)


class _open:  # noqa: N801 (a function by use)
    """Image.open, whose errors while reading become ImageError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Image.Image:
        try:
            self.file = Image.open(self.path)
        except UnidentifiedImageError as error:
            raise ImageError(f"{self.path} is no image this program can read.") from error
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read: {error}.") from error
        return self.file

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.file.close()
        if isinstance(error, (OSError, SyntaxError, ValueError)):
            raise ImageError(f"{self.path} is broken: {error}.") from error


def resize_pixels(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize to (H, W), bicubic with antialiasing as in the pipeline, in 8 bits."""
    return to_pixels(resize_image(from_pixels(pixels), size))


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
