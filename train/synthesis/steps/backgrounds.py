"""Step 4: which backgrounds are kept. One in which PP-OCR reads anything would leave text without a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tadisr.images import from_pixels
from tadisr.ocr import Reader

from ...data.sources import SourceError
from ..config import to_dict
from ..engine.journal import Record, write_lines
from ..engine.step import Pixels, Step, count_items, describe_source, open_source_of, split_groups
from .filter import normalize_text, open_reader

AT_ONCE = 2
REASONS = {"text": "there is text in it", "small": "it is too small"}


class Backgrounds(Step):
    """Records: `kept`, `dropped` with the reason, or `broken`."""

    name = "backgrounds"

    def describe_settings(self) -> Record:
        sources = [describe_source(b.source, b.limit) for b in self.config.backgrounds]
        own = {"ground": to_dict(self.config.ground), "reader": open_reader(self.config.reading).digest[:16]}
        return {**own, "sources": sources, "canvas": self.config.compose.canvas}

    def list_chunks(self) -> dict[int, Any]:
        chunks = [
            (number, group)
            for number, b in enumerate(self.config.backgrounds)
            for group in split_groups(list(range(count_items(open_source_of(b.source), b.limit))), AT_ONCE)
        ]
        return dict(enumerate(chunks))

    def __call__(self, chunk: Any) -> list[Record]:
        number, indices = chunk
        return [self.judge(number, index, open_reader(self.config.reading)) for index in indices]

    def judge(self, number: int, index: int, engine: Reader) -> Record:
        source = open_source_of(self.config.backgrounds[number].source)
        record: Record = {"background": number, "index": index, "key": source.key(index)}
        try:
            picture = source[index].image
        except SourceError as error:
            return {**record, "status": "broken", "reason": str(error)}
        height, width = picture.shape[:2]
        record |= {"size": [width, height]}
        least = self.config.compose.canvas / self.config.ground.enlarge
        if min(height, width) < least:
            why = f"{width} x {height} pixels, expected {least:.0f} each way"
            return {**record, "status": "dropped", "reason": "small", "why": why}
        words = read_confident(picture, engine, self.config.ground.confidence)
        if words:
            return {**record, "status": "dropped", "reason": "text", "why": "reads " + ", ".join(map(repr, words[:5]))}
        return {**record, "status": "kept", "reason": None}

    def write_pool(self, records: Iterable[Record]) -> None:
        write_lines(self.pool, (record for record in records if record["status"] == "kept"))

    @property
    def pool(self) -> Any:
        return self.folder / "pool.jsonl"


def read_confident(picture: Pixels, engine: Reader, confidence: float) -> list[str]:
    """Read the texts that PP-OCR reads with at least this confidence."""
    lines = [line for line in engine.read(from_pixels(picture)) if line.score >= confidence]
    return [text for line in lines if (text := normalize_text(line.text))]
