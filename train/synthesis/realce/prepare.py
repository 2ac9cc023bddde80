"""Real-CE made ready (Sec. 4.1): which pairs are aligned, the aligned images at 1024, their masks, the two lists.

The paper removed misaligned pairs by hand. This proposes them: `alignment.jsonl` says of each pair what was found and why
it is out, `misaligned.jpg` shows those that are. The lists are plain text, to be mended by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from tadisr.atomic_write import write_atomic
from tadisr.config import SCALE
from tadisr.errors import ConfigError
from tadisr.validation import parse_json

from ...data.sources import SourceError
from ...data.sources.base import read_image
from ...data.sources.files import list_real_ce, require_folder
from ...run_files import read_rows
from ...run_lock import lock_folder
from ...segmentation import Segmenter, open_segmenter, quantize_mask
from .align import Alignment, Limits, align_pair, compute_luma, warp_image

log = logging.getLogger(__name__)

Picture = NDArray[Any]  # uint8 (h, w, 3)

LR, HR, MASK = "13mm_aligned_1024", "52mm_aligned_1024", "mask-52mm-bts-1024-v2"
LISTS = {"train": "aligned_list_train.txt", "eval": "aligned_list_eval.txt"}
TRAIN_SHARE = 337 / 526  # the paper's, for a set without parts of its own
QUALITY = 95


@dataclass(frozen=True)
class Pair:
    name: str
    part: str  # train or eval
    lr: Path
    hr: Path


def list_pairs(path: Path) -> list[Pair]:
    """List the images that are in both 13mm/ and 52mm/; the set's train/ is for training, its val/ and test/ for evaluation.

    Without such parts a pair's name decides, by its hash, in the paper's shares. Raises SourceError.
    """
    lrs, hrs = (
        {e.key.replace(f"{focal}/", ""): e.image for e in list_real_ce(path, focal=focal)} for focal in ("13mm", "52mm")
    )
    for key in sorted(lrs.keys() ^ hrs.keys()):
        log.warning("%s is in one of 13mm/ and 52mm/ only: left out", key)
    found = []
    for key in sorted(lrs.keys() & hrs.keys()):
        name, inside = Path(key).stem, Path(key).parent.name
        digest = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
        part = ("train" if inside == "train" else "eval") if inside else ("train" if digest < TRAIN_SHARE else "eval")
        found.append(Pair(name, part, lrs[key], hrs[key]))
    twice = sorted({p.name for p in found if sum(q.name == p.name for q in found) > 1})
    if not found or twice:
        what = f"has {twice[0]} in two of its parts" if twice else "has no image that is in both 13mm/ and 52mm/"
        raise SourceError(f"{path} {what}: expected Real-CE as its owners publish it.")
    return found


def prepare_pair(pair: Pair, side: int, limits: Limits) -> tuple[Alignment, str, Picture, Picture]:
    """Align a pair; return the alignment, why it is excluded (or ""), and LR and HR at one size, cut to their common area."""
    hr, lr = read_image(pair.hr), read_image(pair.lr)
    factor = max(1.0, max(hr.shape) / max(lr.shape))
    shape = hr.shape[1] / hr.shape[0] * lr.shape[0] / lr.shape[1]
    scale = min(1.0, side / max(hr.shape[:2]))
    size = (round(hr.shape[1] * scale), round(hr.shape[0] * scale))
    hr = cv2.resize(hr, size, interpolation=cv2.INTER_AREA) if scale < 1 else hr
    lr = cv2.resize(lr, size, interpolation=cv2.INTER_AREA if max(lr.shape) > max(size) else cv2.INTER_CUBIC)
    found, matrix = align_pair(compute_luma(hr), compute_luma(lr), factor=factor if factor > 1 else 4.0)
    reason = f"other shape, by {abs(shape - 1):.0%}" if abs(shape - 1) > 0.05 else found.find_fault(limits)
    moved, seen = warp_image(lr, matrix)
    top, bottom, left, right = crop_covered(seen)
    return found, reason, moved[top:bottom, left:right], hr[top:bottom, left:right]


def crop_covered(seen: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Find an upright box of covered pixels by removing rows and columns with uncovered ones, worst first; sides are
    multiples of SCALE.
    """
    top, bottom, left, right = 0, seen.shape[0], 0, seen.shape[1]
    while top < bottom and left < right and not seen[top:bottom, left:right].all():
        box = seen[top:bottom, left:right]
        borders = {"top": box[0].mean(), "bottom": box[-1].mean(), "left": box[:, 0].mean(), "right": box[:, -1].mean()}
        worst = min(borders, key=lambda name: borders[name])
        top, bottom = top + (worst == "top"), bottom - (worst == "bottom")
        left, right = left + (worst == "left"), right - (worst == "right")
    return top, bottom - (bottom - top) % SCALE, left, right - (right - left) % SCALE


def prepare_data_set(
    path: Path, out: Path, *, segmenter: Segmenter | None, side: int = 1024, limits: Limits | None = None
) -> dict[str, int]:
    """Check, align and write every pair, the masks of the aligned ones and both lists; finished pairs are skipped.

    Broken images are out, with the reason. Returns how many pairs are in each list, and how many are out.
    """
    limits = limits or Limits()
    todo, journal = list_pairs(require_folder(path)), out / "alignment.jsonl"
    check_settings(
        out, {"side": side, "limits": limits.__dict__, "masks": None if segmenter is None else segmenter.digest}
    )
    done = {row["name"]: row for row in read_rows(journal, is_row)}
    fresh = len(done) < len(todo)
    for pair in tqdm(todo, "Real-CE", mininterval=2):
        if pair.name not in done:
            done[pair.name] = row = write_pair(pair, out, segmenter, side, limits)
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    counts = {"out": 0}
    for part, name in LISTS.items():
        good = [f"{p.name}.JPG" for p in todo if p.part == part and not done[p.name]["reason"]]
        text = "".join(f"{line}\n" for line in good)
        if fresh or not (out / name).exists():  # else it may have been mended by hand
            write_atomic(out / name, lambda temporary, text=text: Path(temporary).write_text(text, encoding="utf-8"))
        counts[part] = len(good)
    counts["out"] = len(todo) - counts["train"] - counts["eval"]
    write_sheet([p for p in todo if done[p.name]["reason"]], done, out / "misaligned.jpg")
    return counts


def write_pair(pair: Pair, out: Path, segmenter: Segmenter | None, side: int, limits: Limits) -> dict[str, Any]:
    """Write one pair's files if it is aligned; return its journal row."""
    try:
        found, reason, lr, hr = prepare_pair(pair, side, limits)
    except SourceError as error:
        return {"name": pair.name, "part": pair.part, "reason": str(error)}
    if not reason:
        for kind, picture in ((LR, lr), (HR, hr)):
            image = Image.fromarray(picture)
            write_atomic(
                out / kind / f"{pair.name}.JPG",
                lambda temporary, image=image: image.save(temporary, format="JPEG", quality=QUALITY, subsampling=0),
            )
        if segmenter is not None:
            mask = Image.fromarray(quantize_mask(segmenter([hr])[0]))
            write_atomic(out / MASK / f"{pair.name}.png", lambda temporary: mask.save(temporary, format="PNG"))
    return {"name": pair.name, "part": pair.part, "reason": reason, **found.to_dict()}


def is_row(row: dict[str, Any]) -> bool:
    """Tell whether a line of the journal records what became of a pair."""
    return all(isinstance(row.get(name), str) for name in ("name", "part", "reason"))


def check_settings(out: Path, card: dict[str, Any]) -> None:
    """Record the settings in `out`, or check that they are the same as before. Raises ConfigError."""
    path = out / "realce.json"
    if not path.exists():
        write_atomic(path, lambda temporary: Path(temporary).write_text(json.dumps(card, indent=1), encoding="utf-8"))
        return
    try:
        found = parse_json(path.read_bytes())
    except ValueError as error:
        raise ConfigError(
            f"{path} is damaged ({error}): delete it if the settings are the same, or choose another."
        ) from error
    if found != card:
        raise ConfigError(f"{out} was made with other settings ({path.name} says which): choose another folder.")


def write_sheet(shown: list[Pair], done: dict[str, dict[str, Any]], path: Path, *, width: int = 320) -> None:
    """Write the excluded pairs as a checkerboard of both images, which shows where edges do not meet."""
    tiles = []
    for pair in shown[:60]:
        try:
            hr, lr = (
                cv2.resize(read_image(p), (width, width), interpolation=cv2.INTER_AREA) for p in (pair.hr, pair.lr)
            )
        except SourceError:
            continue
        board = (np.indices((width, width)) // (width // 8)).sum(0) % 2 == 0
        tile = np.where(board[..., None], hr, lr)
        label = np.full((24, width, 3), 255, np.uint8)
        text = f"{pair.name}: {done[pair.name]['reason']}"
        cv2.putText(label, text[:46], (4, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(np.vstack([label, tile]))
    path.unlink(missing_ok=True)
    if tiles:
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % 4)
        grid = Image.fromarray(np.vstack([np.hstack(tiles[i : i + 4]) for i in range(0, len(tiles), 4)]))
        write_atomic(path, lambda temporary: grid.save(temporary, format="JPEG", quality=85))


def add_parser(subparsers: Any) -> None:
    limits = Limits()
    parser = subparsers.add_parser("realce", help="make Real-CE ready: aligned pairs, masks, the two lists")
    parser.add_argument("path", type=Path, help="Real-CE as published, with 13mm/ and 52mm/")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument(
        "--segmenter", default="compact", help="for the masks: compact, a .pth, a .safetensors, none (compact)"
    )
    parser.add_argument("--sam", type=Path, help="SAM's own sam_vit_*.pth, for a segmenter of Hi-SAM's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=1024, help="the longer side at most (1024)")
    parser.add_argument("--residual", type=float, default=limits.residual, help=f"pixels left over ({limits.residual})")
    parser.add_argument(
        "--correlation", type=float, default=limits.correlation, help=f"at least ({limits.correlation})"
    )
    parser.set_defaults(run=run_command)


def run_command(arguments: argparse.Namespace) -> int:
    segmenter = None
    if arguments.segmenter != "none":
        segmenter = open_segmenter(arguments.segmenter, sam=arguments.sam, device=arguments.device)
    limits = Limits(residual=arguments.residual, correlation=arguments.correlation)
    with lock_folder(arguments.out, "build"):
        counts = prepare_data_set(
            arguments.path, arguments.out, segmenter=segmenter, side=arguments.side, limits=limits
        )
    print(json.dumps(counts))
    return 0
