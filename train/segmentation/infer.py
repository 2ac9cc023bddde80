"""Write masks for a whole data set one by one. An interrupted run resumes with those that are missing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from PIL import Image
from tqdm import tqdm

from tadisr.atomic_write import write_atomic
from tadisr.errors import ConfigError

from ..data.sources import Item, Source, SourceError
from ..data.sources.files import PICTURES
from .segmenter import Segmenter, quantize_mask

log = logging.getLogger(__name__)


def mask_path(out: Path, key: str) -> Path:
    """Return `out/mask/KEY.png`, with the image's suffix replaced."""
    name = PurePosixPath(key)
    return out / "mask" / f"{name.with_suffix('') if name.suffix.lower() in PICTURES else name}.png"


def write_masks(
    segmenter: Segmenter,
    source: Source,
    out: Path,
    *,
    batch: int = 8,
    threshold: float | None = 0.5,
    part: tuple[int, int] = (0, 1),
    limit: int | None = None,
) -> dict[str, int]:
    """Write the mask of every item that has none yet: 0 or 255 by the threshold, or all shades where it is None.

    part: (i, n), every n-th item from the i-th on, for n runs side by side. Broken items are listed in
    `broken-I.jsonl` with the reason and not tried again. Returns how many were written, skipped, broken. Raises
    ConfigError where `out` holds masks of another segmenter.
    """
    check_origin(out, segmenter, source, threshold)
    quarantine = out / f"broken-{part[0]}.jsonl"
    broken = (
        {json.loads(line)["key"] for line in quarantine.read_text("utf-8").splitlines()}
        if quarantine.exists()
        else set()
    )
    indices = range(part[0], len(source) if limit is None else min(limit, len(source)), part[1])
    todo = [i for i in indices if source.key(i) not in broken and not mask_path(out, source.key(i)).exists()]
    counts = {"written": 0, "skipped": len(indices) - len(todo), "broken": 0}
    with tqdm(total=len(indices), initial=counts["skipped"], desc=source.name, mininterval=2) as bar:
        for group in load_ahead(source, todo, batch):
            items = []
            for key, item in group:
                if isinstance(item, SourceError):
                    with quarantine.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"key": key, "reason": str(item)}, ensure_ascii=False) + "\n")
                    counts["broken"] += 1
                else:
                    items.append(item)
            for item, mask in zip(items, segmenter([item.image for item in items]), strict=True):
                picture = Image.fromarray(quantize_mask(mask, threshold))
                path = mask_path(out, item.key)
                write_atomic(path, lambda temporary, picture=picture: picture.save(temporary, format="PNG"))
                counts["written"] += 1
            bar.update(len(group))
    return counts


def check_origin(out: Path, segmenter: Segmenter, source: Source, threshold: float | None) -> None:
    """Record in `out` which segmenter and source make its masks, or check that it is the same as before. Raises ConfigError."""
    card = {"segmenter": segmenter.name, "digest": segmenter.digest, "threshold": threshold, "source": source.name}
    path = out / "segmenter.json"
    if not path.exists():
        write_atomic(path, lambda temporary: Path(temporary).write_text(json.dumps(card, indent=1), encoding="utf-8"))
        return
    before = json.loads(path.read_text("utf-8"))
    if before != card:
        changed = next(k for k in card if before.get(k) != card[k])
        raise ConfigError(
            f"{out} holds masks made with {changed} {before.get(changed)}, now it is {card[changed]}: choose another folder."
        )


Read = tuple[str, Item | SourceError]


def load_ahead(source: Source, indices: list[int], batch: int) -> Iterator[list[Read]]:
    """Yield batches of items, the next one decoded by threads while this one is used; an error in place of a broken item."""

    def read(index: int) -> Read:
        try:
            return source.key(index), source[index]
        except SourceError as error:
            return source.key(index), error

    with ThreadPoolExecutor(4) as pool:
        waiting: list[list[Future[Read]]] = []
        for begin in range(0, len(indices), batch):
            waiting.append([pool.submit(read, index) for index in indices[begin : begin + batch]])
            if len(waiting) == 2:
                yield [future.result() for future in waiting.pop(0)]
        for group in waiting:
            yield [future.result() for future in group]
