"""Step 1: a text mask for every image that came without one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...data.sources import Item, SourceError
from ..config import ForegroundConfig, SegmentConfig, to_dict
from ..engine.journal import Record
from ..engine.step import (
    Pixels,
    Step,
    count_items,
    describe_source,
    hash_model,
    open_source_of,
    read_gray,
    split_groups,
    write_png,
)

if TYPE_CHECKING:
    from ...segmentation import Segmenter

SMALLEST = 8  # pixels


class Masks(Step):
    """Records: `ok` with the mask's file (none where the set has its own), or `broken` with the reason."""

    name = "masks"
    on_device = True

    def describe_settings(self) -> Record:
        sources = [describe_source(f.source, f.limit) for f in self.config.foregrounds]
        own = to_dict(self.config.segment)
        for name in ("model", "sam"):
            own[name] = own[name] if own[name] in (None, "compact") else hash_model(own[name])
        return {"sources": sources, "segment": own}

    def list_chunks(self) -> dict[int, Any]:
        chunks = [
            (number, group)
            for number, f in enumerate(self.config.foregrounds)
            for group in split_groups(
                list(range(count_items(open_source_of(f.source), f.limit))), self.config.segment.batch
            )
        ]
        return dict(enumerate(chunks))

    def __call__(self, chunk: Any) -> list[Record]:
        number, indices = chunk
        source = open_source_of(self.config.foregrounds[number].source)
        records, bare = list[Record](), list[tuple[Record, Pixels]]()
        for index in indices:
            record: Record = {
                "foreground": number,
                "index": index,
                "key": source.key(index),
                "status": "ok",
                "mask": None,
            }
            records.append(record)
            try:
                item = source[index]
                check_item(item)
            except SourceError as error:
                record |= {"status": "broken", "reason": str(error)}
                continue
            if item.mask is None:
                bare.append((record, item.image))
        if bare:
            from ...segmentation import quantize_mask

            masks = open_segmenter_of(self.config.segment, self.device)([picture for _, picture in bare])
            for (record, _), mask in zip(bare, masks, strict=True):
                record["mask"] = f"{number}/{record['index'] // 1000:06d}/{record['index']:09d}.png"
                write_png(self.folder / record["mask"], quantize_mask(mask, self.config.segment.threshold))
        return records

    def written_files(self, record: Record) -> list[Path]:
        return [self.folder / record["mask"]] if record["mask"] else []


def check_item(item: Item) -> None:
    height, width = item.image.shape[:2]
    if min(height, width) < SMALLEST:
        raise SourceError(f"{item.key} is {width} x {height} pixels, expected at least {SMALLEST} each way.")
    if item.mask is not None and item.mask.shape != (height, width):
        raise SourceError(f"{item.key} is {width} x {height}, its mask {item.mask.shape[1]} x {item.mask.shape[0]}.")


@lru_cache(maxsize=1)
def open_segmenter_of(config: SegmentConfig, device: str) -> Segmenter:
    from ...segmentation import open_segmenter

    return open_segmenter(config.model, device=device, sam=config.sam, precision=config.precision, batch=config.batch)


def load_masked(foreground: ForegroundConfig, record: Record, masks: Path) -> tuple[Item, Pixels]:
    """Load an image whose record is `ok`, and its mask."""
    item = open_source_of(foreground.source)[record["index"]]
    mask = item.mask if record["mask"] is None else read_gray(masks / record["mask"])
    assert mask is not None
    return item, mask
