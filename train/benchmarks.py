"""Bring public benchmarks into the layout that train.evaluate reads: python -m train.benchmarks KIND SOURCE OUT

    real-text    TAIR's Real-Text: 847 pairs, polygons and transcripts
    sa-text      TAIR's SA-Text-test: 1,000 images, three levels of degradation (--level)
    textzoom     TextZoom's LMDBs, every pair as one whole image (LR kept, HR brought to four times its size)
    folders      HR and LR folders of any names and a JSON of transcripts (ReasonText and others), one --level a call

Writes hr/, lr/, labels.json and degradation.json. Several calls into one OUT add up, so that the levels of one benchmark are
one report with a bucket for each level. Real-CE's test part needs no call: train.evaluate reads its own layout.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from tadisr.atomic_write import write_atomic
from tadisr.config import SCALE
from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError

from .data.pairs import Pixels, list_images, read_rgb

log = logging.getLogger("train.benchmarks")

Box = list[list[float]]  # four corners in HR pixels, clockwise from the line's top left

COLUMNS = {"real-text": ("lq_img",), "sa-text": ("lq_img_lv{level}", "lq_img")}  # of the published Parquet files
ANNOTATIONS = ("real_benchmark_dataset.json", "sa_text_test_dataset.json", "restoration_dataset.json")
LQ_FOLDERS = {"real-text": ("LQ",), "sa-text": ("LQ_lv{level}", "LQ")}


@dataclass(frozen=True)
class Benchmark:
    """One image of a benchmark."""

    key: str
    hr: Pixels  # (4h, 4w, 3)
    lr: Pixels  # (h, w, 3)
    lines: list[tuple[str, Box | None]] = field(default_factory=list)


def fit_quad(points: Any) -> Box:
    """Fit four corners to a polygon or to two opposite corners, clockwise from the top left one."""
    corners = np.array(points, np.float32).reshape(-1, 2)
    if len(corners) == 2:
        (left, top), (right, bottom) = corners.tolist()
        return [[left, top], [right, top], [right, bottom], [left, bottom]]
    if len(corners) != 4:
        corners = cv2.boxPoints(cv2.minAreaRect(corners))
    middle = corners - corners.mean(0)
    corners = corners[np.argsort(np.arctan2(middle[:, 1], middle[:, 0]))]  # clockwise, as y points down
    return np.roll(corners, -int(corners.sum(1).argmin()), 0).tolist()


# ---- readers --------------------------------------------------------------------------------------------------------


def read_tair(source: Path, kind: str, level: str | None) -> Iterator[Benchmark]:
    """Read Real-Text or SA-Text-test: Parquet files with the images in them, or HQ/, LQ/ and an annotation JSON.

    Raises ConfigError where SOURCE is neither, or has no such level.
    """
    if kind == "sa-text" and level not in ("1", "2", "3"):
        raise ConfigError("sa-text has three levels of degradation: give --level 1, 2 or 3.")
    tables = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if tables and all(table.suffix == ".parquet" for table in tables):
        for table in tables:
            yield from read_parquet(table, kind, level)
        return
    yield from read_tair_folders(source, kind, level)


def read_parquet(table: Path, kind: str, level: str | None) -> Iterator[Benchmark]:
    """Read a Parquet file with the columns id, hq_img, lq_img or lq_img_lvN, text, bbox and poly."""
    try:
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError("Reading Parquet files needs the package pyarrow: pip install pyarrow.") from error
    file = parquet.ParquetFile(table)
    names = file.schema_arrow.names
    low = next((name for name in (c.format(level=level) for c in COLUMNS[kind]) if name in names), None)
    if low is None or "hq_img" not in names:
        raise ConfigError(
            f"{table} has the columns {', '.join(names)}; expected hq_img and {COLUMNS[kind][0].format(level=level)}."
        )
    for batch in file.iter_batches(batch_size=16):
        for row in batch.to_pylist():
            shapes = row.get("poly") or row.get("bbox") or [None] * len(row["text"])
            lines = [(text, None if s is None else fit_quad(s)) for text, s in zip(row["text"], shapes, strict=True)]
            yield Benchmark(str(row["id"]), decode_cell(row["hq_img"]), decode_cell(row[low]), lines)


def decode_cell(cell: Any) -> Pixels:
    """Decode an image as the datasets library stores it: bytes, or {"bytes": ...}."""
    data = cell["bytes"] if isinstance(cell, dict) else cell
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def read_tair_folders(source: Path, kind: str, level: str | None) -> Iterator[Benchmark]:
    """Read HQ/, LQ/ (LQ_lvN/) and the annotation beside them."""
    names = [name.format(level=level) for name in LQ_FOLDERS[kind]]
    low = next((source / name for name in names if (source / name).is_dir()), None)
    notes = next((source / name for name in ANNOTATIONS if (source / name).is_file()), None)
    if low is None or notes is None or not (source / "HQ").is_dir():
        raise ConfigError(
            f"{source} is no {kind}: expected Parquet files, or HQ/, {names[0]}/ and one of {', '.join(ANNOTATIONS)}."
        )
    labels, hrs, lrs = read_annotation(notes), list_images(source / "HQ"), list_images(low)
    check_partners(hrs, lrs, source / "HQ", low)
    for key in sorted(hrs):
        yield Benchmark(key, read_rgb(hrs[key]), read_rgb(lrs[key]), labels.get(key, []))


def read_annotation(path: Path) -> dict[str, list[tuple[str, Box | None]]]:
    """Read transcripts by image: a list of {id, text, poly or bbox}, or {id: {...: {text_instances: [...]}}}.

    Raises ConfigError for anything else.
    """
    data: Any = json.loads(path.read_text(encoding="utf-8"))
    try:
        if isinstance(data, list):
            return {
                str(row["id"]): [
                    (text, fit_quad(shape))
                    for text, shape in zip(row["text"], row.get("poly") or row["bbox"], strict=True)
                ]
                for row in data
            }
        found: dict[str, list[tuple[str, Box | None]]] = {}
        for key, parts in data.items():
            instances = [one for part in parts.values() for one in part["text_instances"]]
            found[key] = [
                (one["text"], fit_quad(one.get("polygon") or np.reshape(one["bbox"], (2, 2)))) for one in instances
            ]
        return found
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path} is no annotation of TAIR's: expected a list of id, text, poly, or a table of text_instances ({error})."
        ) from error


def read_textzoom(source: Path) -> Iterator[Benchmark]:
    """Read one TextZoom LMDB (test/easy and so on). HR is brought to four times LR's size, by Lanczos."""
    from .data.sources.ctr import open_environment

    with open_environment(source).begin() as transaction:
        count = int(transaction.get(b"num-samples") or 0)
        if not count or transaction.get(b"image_hr-000000001") is None:
            raise ConfigError(f"{source} is no TextZoom: expected an LMDB with num-samples and image_hr-000000001.")
        for number in range(1, count + 1):
            hr, lr = (decode_cell(transaction.get(b"image_%s-%09d" % (side, number))) for side in (b"hr", b"lr"))
            size = (lr.shape[1] * SCALE, lr.shape[0] * SCALE)
            hr = np.array(Image.fromarray(hr).resize(size, Image.Resampling.LANCZOS))
            text = transaction.get(b"label-%09d" % number).decode()
            whole = fit_quad([[0, 0], [size[0], size[1]]])
            yield Benchmark(f"{number:05d}", hr, lr, [(text, whole)])


def read_folders(source: Path, hr: str, lr: str, labels: str | None) -> Iterator[Benchmark]:
    """Read SOURCE/hr and SOURCE/lr, and transcripts by name: a text, a list of texts, or lists of {text, box}."""
    for name in (hr, lr):
        if not (source / name).is_dir():
            raise ConfigError(f"{source} has no folder {name}: name its HR and LR folders with --hr and --lr.")
    hrs, lrs = list_images(source / hr), list_images(source / lr)
    check_partners(hrs, lrs, source / hr, source / lr)
    table: dict[str, Any] = {} if labels is None else json.loads((source / labels).read_text(encoding="utf-8"))
    known = {Path(name).with_suffix("").as_posix(): lines for name, lines in table.items()}
    for key in sorted(hrs):
        lines = known.get(key, [])
        yield Benchmark(key, read_rgb(hrs[key]), read_rgb(lrs[key]), [parse_line(one) for one in as_list(lines)])


def as_list(value: Any) -> list[Any]:
    """Wrap a value that is no list into one."""
    return value if isinstance(value, list) else [value]


def parse_line(line: Any) -> tuple[str, Box | None]:
    """Parse a transcript: a text, or {text, box} -> text and box or None."""
    return (
        (line, None) if isinstance(line, str) else (line["text"], None if "box" not in line else fit_quad(line["box"]))
    )


def check_partners(hrs: dict[str, Path], lrs: dict[str, Path], hr: Path, lr: Path) -> None:
    """Raise ConfigError where a file has no partner of the same name."""
    alone = sorted(hrs.keys() ^ lrs.keys())
    if alone or not hrs:
        raise ConfigError(
            f"{hr} and {lr} hold no pairs." if not hrs else f"{alone[0]} is in one of {hr} and {lr} only."
        )


# ---- writing --------------------------------------------------------------------------------------------------------


def write_benchmark(images: Iterator[Benchmark], out: Path, *, level: str | None, name: str) -> int:
    """Write images in the plain layout, added to what OUT holds; their number.

    With a level its name goes before the keys and into degradation.json. Raises ConfigError where LR is not a quarter of HR.
    """
    labels, words = (read_table(out / file) for file in ("labels.json", "degradation.json"))
    count = 0
    for image in tqdm(images, desc=name, unit="image", disable=None):
        (height, width), (h, w) = image.hr.shape[:2], image.lr.shape[:2]
        if (height, width) != (h * SCALE, w * SCALE):
            raise ConfigError(
                f"{image.key}: HR is {width}x{height}, LR {w}x{h}; expected LR of exactly a quarter of HR ({SCALE}x)."
            )
        key = image.key if level is None else f"{level}/{image.key}"
        for folder, pixels in (("hr", image.hr), ("lr", image.lr)):
            path, picture = out / folder / f"{key}.png", Image.fromarray(pixels)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, lambda temporary, picture=picture: picture.save(temporary, format="PNG"))
        labels[f"{key}.png"] = [{"text": text} | ({} if box is None else {"box": box}) for text, box in image.lines]
        if level is not None:
            words[f"{key}.png"] = level
        count += 1
    if not any(labels.values()):
        labels = {}
    for file, table in (("labels.json", labels), ("degradation.json", words)):
        if table:
            text = json.dumps(table, ensure_ascii=False, indent=0)
            write_atomic(out / file, lambda temporary, text=text: Path(temporary).write_text(text, encoding="utf-8"))
    return count


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON file, or return an empty table if it is missing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(
        prog="python -m train.benchmarks", description="Bring a benchmark into our layout."
    )
    parser.add_argument("kind", choices=("real-text", "sa-text", "textzoom", "folders"))
    parser.add_argument("source", type=Path, help="the benchmark as its owners publish it")
    parser.add_argument("out", type=Path, help="a folder for train.evaluate --data")
    parser.add_argument(
        "--level", help="sa-text: 1, 2 or 3; textzoom and folders: a word for how hard these images are"
    )
    parser.add_argument("--hr", default="HR", help="folders: of the HR images, in SOURCE (default HR)")
    parser.add_argument("--lr", default="LR", help="folders: of the LR images, in SOURCE (default LR)")
    parser.add_argument("--labels", help="folders: a JSON table of image name -> transcripts, in SOURCE")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if arguments.kind == "textzoom":
            images = read_textzoom(arguments.source)
        elif arguments.kind == "folders":
            images = read_folders(arguments.source, arguments.hr, arguments.lr, arguments.labels)
        else:
            images = read_tair(arguments.source, arguments.kind, arguments.level)
        level = f"level {arguments.level}" if arguments.kind == "sa-text" else arguments.level
        count = write_benchmark(images, arguments.out, level=level, name=arguments.kind)
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    log.info("%d images in %s: python -m train.evaluate --data %s", count, arguments.out, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
