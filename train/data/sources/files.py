"""Data sets that are folders of files: any images, LSDIR, TextSeg, BTS, Real-CE, CTR as derived."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .base import Item, Pixels, SourceError, check_index, read_bytes, read_image, read_mask

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Entry:
    """The files of one item. label: the text itself, or the TextSeg annotation that holds it."""

    key: str
    image: Path
    mask: Path | None = None
    label: str | Path | None = None


class Files:
    """A source whose items are files. strokes: from the numbers in a mask file to 0..255 for text."""

    def __init__(
        self,
        entries: list[Entry],
        *,
        name: str,
        kind: str,
        licence: str,
        strokes: Callable[[Pixels], Pixels] | None = None,
    ) -> None:
        self.entries, self.name, self.kind, self.licence, self.strokes = entries, name, kind, licence, strokes

    def __len__(self) -> int:
        return len(self.entries)

    def key(self, index: int) -> str:
        return self.entries[check_index(index, len(self))].key

    def __getitem__(self, index: int) -> Item:
        entry = self.entries[check_index(index, len(self))]
        image, mask = read_image(entry.image), None
        if entry.mask is not None:
            mask = read_mask(entry.mask)
            mask = mask if self.strokes is None else self.strokes(mask)
            if mask.shape != image.shape[:2]:  # drawn on the image as it is stored, not as EXIF turns it
                image = read_image(entry.image, upright=False)
            if mask.shape != image.shape[:2]:
                raise SourceError(
                    f"{entry.mask} is {_size(mask)}, its image {entry.image} {_size(image)}: they do not lie on one "
                    "another."
                )
        label = read_words(entry.label) if isinstance(entry.label, Path) else entry.label
        return Item(entry.key, image, mask, label)


def _size(array: Pixels) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"


# ---- masks ----------------------------------------------------------------------------------------------------------


def select_textseg_strokes(mask: Pixels) -> Pixels:
    """Select text in TextSeg's coding: 100 is text; 200, its effects (shadows, outlines), and 255, unsure, are not."""
    return np.where(mask == 100, 255, 0).astype(np.uint8)


def select_strokes(mask: Pixels) -> Pixels:
    """Select text in whichever coding the file follows: TextSeg's classes, 0 and 1, or white on black."""
    values = set(np.unique(mask).tolist())
    if 100 in values and values <= {0, 100, 200, 255}:
        return select_textseg_strokes(mask)
    return np.where(mask > (0 if max(values) <= 1 else 127), 255, 0).astype(np.uint8)


def read_words(annotation: Path) -> str:
    """Read all words of a TextSeg annotation, `{"00": {"text": ..., "bbox": ...}, ...}`, in its order. Raises SourceError."""
    try:
        table = json.loads(read_bytes(annotation))
        return " ".join(str(table[key]["text"]) for key in sorted(table))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SourceError(f"{annotation} is no TextSeg annotation: each entry must have a text.") from error


# ---- looking around -------------------------------------------------------------------------------------------------


def require_folder(path: Path, *, what: str = "images") -> Path:
    """Return the path if it is a folder. Raises SourceError."""
    if not path.is_dir():
        raise SourceError(f"There is no folder {path} of {what}.")
    return path


def list_images(path: Path, *, deep: bool = True) -> list[Path]:
    """List the image files under a folder in a fixed order, without hidden ones and links."""
    found = path.rglob("*") if deep else path.iterdir()
    return sorted(
        p for p in found if p.suffix.lower() in PICTURES and not p.name.startswith(".") and not p.is_symlink()
    )


def index_by_stem(paths: Iterable[Path], root: Path, ending: str = "") -> dict[str, Path]:
    """Index files by relative path without suffix (and without `ending`)."""
    return {p.relative_to(root).with_suffix("").as_posix().removesuffix(ending): p for p in paths}


# ---- the sets -------------------------------------------------------------------------------------------------------


def list_folder(path: Path, *, masks: str | Path | None = None, labels: str | Path | None = None) -> list[Entry]:
    """List every image under `path`, searched deeply.

    masks: a folder, in or outside `path`, with masks of the same relative names (any suffix, white text, soft edges
    kept); an image without one has none. labels: a JSON table, relative name (with or without suffix) -> text; without
    it, a `NAME.txt` beside an image is its label. Raises SourceError.
    """
    require_folder(path)
    mask_root = None if masks is None else require_folder(path / masks, what="masks")
    found = list_images(path)
    mask_of: dict[str, Path] = {}
    if mask_root is not None:
        mask_of = index_by_stem(list_images(mask_root), mask_root)
        found = [p for p in found if not p.is_relative_to(mask_root)]
    texts = _label_table(path / labels) if labels is not None else None
    entries = []
    for image in found:
        key = image.relative_to(path).as_posix()
        stem = image.relative_to(path).with_suffix("").as_posix()
        label = texts.get(key, texts.get(stem)) if texts is not None else _beside(image)
        entries.append(Entry(key, image, mask_of.get(stem), label))
    return entries


def _beside(image: Path) -> str | None:
    text = image.with_suffix(".txt")
    return text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else None


def _label_table(path: Path) -> dict[str, str]:
    try:
        table = json.loads(read_bytes(path))
    except ValueError as error:
        raise SourceError(f"{path} is no JSON: {error}.") from error
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise SourceError(f"{path} must be a JSON table of image name -> text.")
    return table


def list_lsdir(path: Path) -> list[Entry]:
    """List HR images in numbered subfolders, `0001000/0000001.png`, without the LR ones (`0000001x4.png`)."""
    for root in (path, path / "HR" / "train", path / "train", path / "LSDIR"):
        shards = sorted(p for p in root.glob("*") if p.is_dir() and p.name.isdigit())
        if shards:
            files = [p for shard in shards for p in list_images(shard, deep=False) if not re.search(r"x[234]$", p.stem)]
            return [Entry(p.relative_to(root).as_posix(), p) for p in files]
    raise SourceError(f"{path} has no numbered subfolders of images, as LSDIR has them (0001000/0000001.png).")


def list_textseg(path: Path, *, split: str = "train+val+test") -> list[Entry]:
    """List TextSeg as published (`image/`, `semantic_label/NAME_maskfg.png`, `annotation/NAME_anno.json`, `split.json`) or
    as split by Hi-SAM (`train_images/NAME.jpg`, `train_gt/NAME.png`). split: parts joined by +.
    """
    parts = split.split("+")
    if (path / "split.json").is_file() and (path / "image").is_dir():
        table = json.loads(read_bytes(path / "split.json"))
        missing = [part for part in parts if part not in table]
        if missing:
            raise SourceError(f"{path}/split.json has no part {missing[0]}; it has {', '.join(table)}.")
        entries = []
        for name in (name for part in parts for name in sorted(table[part])):
            note = path / "annotation" / f"{name}_anno.json"
            mask = path / "semantic_label" / f"{name}_maskfg.png"
            entries.append(Entry(name, path / "image" / f"{name}.jpg", mask, note if note.is_file() else None))
        return entries
    if any((path / f"{part}_images").is_dir() for part in parts):
        return [
            Entry(f"{part}/{image.stem}", image, path / f"{part}_gt" / f"{image.stem}.png")
            for part in parts
            for image in list_images(require_folder(path / f"{part}_images"), deep=False)
        ]
    raise SourceError(
        f"{path} is no TextSeg: expected image/, semantic_label/ and split.json, or {parts[0]}_images/ and {parts[0]}_gt/."
    )


def list_bts(path: Path, *, split: str | None = None) -> list[Entry]:
    """List `TRAIN/image/NAME.jpg` with `TRAIN/semantic_label/NAME_maskfg.png` or `NAME.png`; or one part's folder by itself."""
    parts = (
        [path / p for p in split.split("+")] if split is not None else sorted(p.parent for p in path.glob("*/image"))
    )
    if split is None and (path / "image").is_dir():
        parts = [path]
    if not parts:
        raise SourceError(f"{path} is no BTS: expected TRAIN/image/ and TRAIN/semantic_label/ (VAL, TEST) in it.")
    entries = []
    for part in parts:
        images, masks = require_folder(part / "image"), require_folder(part / "semantic_label", what="masks")
        mask_of = index_by_stem(list_images(masks), masks, "_maskfg")
        prefix = "" if part == path else f"{part.name}/"
        for image in list_images(images):
            stem = image.relative_to(images).with_suffix("").as_posix()
            entries.append(Entry(prefix + stem, image, mask_of.get(stem, masks / f"{stem}_maskfg.png")))
    return entries


def list_real_ce(path: Path, *, focal: str = "52mm", names: str | Path | None = None) -> list[Entry]:
    """List the images of one focal length (13mm, 26mm, 52mm): the aligned ones if `NNmm_aligned_1024/` exists, with the
    masks of `mask-52mm-bts-1024-v2/`; else the set's own `NNmm/`, in `path` or in its `train/`, `val/`, `test/`.

    names: a list such as aligned_list_train.txt, one name per line, with or without suffix. Raises SourceError.

    names: a list such as aligned_list_train.txt, one a line, with or without suffix.
    """
    roots = [path / f"{focal}_aligned_1024"]
    if not roots[0].is_dir():
        roots = [p for p in (path / focal, *(path / part / focal for part in ("train", "val", "test"))) if p.is_dir()]
    if not roots:
        raise SourceError(f"{path} is no Real-CE: expected a folder {focal}/ or {focal}_aligned_1024/ in it.")
    masks = path / "mask-52mm-bts-1024-v2"
    mask_of = index_by_stem(list_images(masks), masks) if masks.is_dir() and roots[0].name.endswith("_1024") else {}
    entries = [
        Entry(image.relative_to(path).as_posix(), image, mask_of.get(image.stem))
        for root in roots
        for image in list_images(root, deep=False)
    ]
    if names is None:
        return entries
    stems = [Path(line.strip()).stem for line in read_bytes(path / names).decode().splitlines() if line.strip()]
    by_name = {entry.image.stem: entry for entry in entries}
    missing = [stem for stem in stems if stem not in by_name]
    if missing:
        raise SourceError(f"{path / names} names {missing[0]}, which is not among the images of {focal}.")
    return [by_name[stem] for stem in stems]


def list_ctr_derived(path: Path, *, list: str | Path | None = None) -> list[Entry]:
    """List crops as derived from CTR by this project and the paper: `images_enhanced/NAME.jpg`, `mask/NAME.png`, and a JSON
    list of `{"filename": NAME, "label": TEXT}`, by default the only `.json` in the folder.
    """
    lists = [path / list] if list is not None else sorted(path.glob("*.json"))
    if len(lists) != 1:
        raise SourceError(f"{path} has {len(lists)} JSON lists, expected one; name it by the option list.")
    try:
        rows: Any = json.loads(read_bytes(lists[0]))
        names = [(str(row["filename"]), row.get("label")) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SourceError(f'{lists[0]} must be a JSON list of {{"filename": NAME, "label": TEXT}}.') from error
    return [
        Entry(name, path / "images_enhanced" / f"{name}.jpg", path / "mask" / f"{name}.png", label)
        for name, label in names
    ]
