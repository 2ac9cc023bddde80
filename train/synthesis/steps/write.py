"""Step 7: the index, the split, WebDataset shards and the data set's card."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tadisr.errors import ConfigError

from ..config import SynthesisConfig, to_dict
from ..engine.journal import Record, read_lines, write_bytes, write_lines
from ..engine.step import Step, hash_steps, open_source_of, split_groups

MEMBERS = ("gt", "lr", "mask")  # of a sample in a shard: sr_bicubic is made of lr
DEGRADATIONS = {
    "ftsr-authors": "the order and ranges of the authors' synthesis code, as the paper's FTSR; comparable with Table 1",
    "ftsr": "two full Real-ESRGAN stages with the authors' ranges; harder than the paper's FTSR",
    "real-esrgan": "two full Real-ESRGAN stages with its own ranges; much harder than the paper's FTSR",
}


@dataclass(frozen=True, kw_only=True)
class Shards(Step):
    """`shards/train-000000.tar` and so on; the same bytes for the same samples. Records: a shard and its samples."""

    name = "shards"

    degrade: Step

    def describe_settings(self) -> Record:
        return {"per_shard": self.config.write.per_shard, "after": hash_steps(self.degrade)}

    def list_chunks(self) -> dict[int, Any]:
        size, border = self.config.write.per_shard, count_training_samples(self.config)
        parts = {"train": range(border), "test": range(border, self.config.samples)}
        named = [
            (f"{part}-{number:06d}.tar", group)
            for part, indices in parts.items()
            for number, group in enumerate(split_groups(list(indices), size))
        ]
        return dict(enumerate(named))

    def covers_chunk(self, records: list[Record], chunk: Any) -> bool:
        return [(r["shard"], r["samples"]) for r in records] == [(chunk[0], chunk[1])]

    def __call__(self, chunk: Any) -> list[Record]:
        name, indices = chunk
        wanted = set(indices)
        rows = {}
        with (self.out / "index.jsonl").open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                if number in wanted:
                    rows[number] = line.strip()
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for index in indices:
                for folder in MEMBERS:
                    add_member(
                        tar, f"{index + 1:07d}.{folder}.png", (self.out / folder / f"{index + 1:07d}.png").read_bytes()
                    )
                add_member(tar, f"{index + 1:07d}.json", rows[index].encode())
        write_bytes(self.out / "shards" / name, buffer.getvalue())
        return [{"shard": name, "samples": indices}]

    def written_files(self, record: Record) -> list[Path]:
        return [self.out / "shards" / record["shard"]]

    def output_folders(self) -> list[Path]:
        return [self.folder, self.out / "shards"]


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member to a tar without date and owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def count_training_samples(config: SynthesisConfig) -> int:
    """Count the samples that are for training."""
    return round(config.samples * config.write.train)


def write_index(config: SynthesisConfig, composed: Iterable[Record], degraded: Iterable[Record]) -> None:
    """Write index.jsonl, one sample a line in order, and the lists of the split."""
    out, border = Path(config.out), count_training_samples(config)
    samples = zip(composed, degraded, strict=True)
    write_lines(out / "index.jsonl", (make_index_row(config, one, two) for one, two in samples))
    for split, part in (("train", range(border)), ("test", range(border, config.samples))):
        write_bytes(out / f"{split}.txt", "".join(f"{index + 1:07d}.png\n" for index in part).encode())


def make_index_row(config: SynthesisConfig, composed: Record, degraded: Record) -> Record:
    """Make a sample's line of the index."""
    if composed["sample"] != degraded["sample"]:
        raise ConfigError(f"{config.out} holds another sample {degraded['sample']} than was composed: --redo degrade.")
    return {
        "id": f"{composed['sample'] + 1:07d}",
        "split": "train" if composed["sample"] < count_training_samples(config) else "test",
        **{name: composed[name] for name in ("seed", "background", "foregrounds")},
        "degradation": {"preset": config.degrade.preset, "tools": config.degrade.tools, "psnr": degraded["psnr"]},
        "sha256": degraded["sha256"],
    }


def portable_settings(config: SynthesisConfig) -> Record:
    """Return the settings that decide the data set's contents: without paths and numbers of workers."""
    table = to_dict(config)
    for name in ("out", "workers", "device", "on_device"):
        del table[name]
    return table


def write_card(config: SynthesisConfig, given: SynthesisConfig, counts: Record) -> None:
    """Write README.md (contents, sources, terms) and config.yaml as it was given."""
    out = Path(config.out)
    sources = [open_source_of(s.source) for s in (*config.foregrounds, *config.backgrounds)]
    terms = "\n".join(f"| {s.name} | {s.kind} | {s.licence} |" for s in dict.fromkeys(sources))
    border = count_training_samples(config)
    shared = count_shared(read_lines(out / "index.jsonl"))
    kept = "\n".join(f"| {name} | {value} |" for name, value in counts.items())
    canvas = config.compose.canvas
    text = f"""\
---
task_categories: [image-to-image, image-segmentation]
tags: [super-resolution, text, ocr, ftsr]
size_categories: [{size_category(config.samples)}]
---
# FTSR: full-image text super-resolution

{config.samples} triplets of an LR image, its HR image and the mask of its text, {border} to train and
{config.samples - border} to test; made by `python -m train.synthesis build config.yaml` of comfyui-tadisr after Sec. 3.5 of the
TADiSR paper, seed {config.seed}.

| folder | holds |
| --- | --- |
| `gt/0000001.png` | HR, {canvas} x {canvas} |
| `lr/` | LR, {canvas // 4} x {canvas // 4}, degradation `{config.degrade.preset}`: {DEGRADATIONS[config.degrade.preset]} |
| `sr_bicubic/` | LR brought back to HR size |
| `mask/` | where text is, 0 to 255 |
| `index.jsonl` | each sample's sources, crop boxes, seeds, what PP-OCR read, checksums |
| `train.txt`, `test.txt` | the split |

## What it was made of

| source | kind | terms |
| --- | --- | --- |
{terms}

The terms of every source hold for what was made of it.

## What was kept

| step | count |
| --- | --- |
{kept}

{shared["backgrounds"]} of the test samples have a background, {shared["foregrounds"]} have a text crop that a training
sample has too.
"""
    write_bytes(out / "README.md", text.encode())
    write_bytes(
        out / "config.yaml", yaml.safe_dump(portable_settings(given), sort_keys=False, allow_unicode=True).encode()
    )


def count_shared(rows: Iterable[Record]) -> Counter[str]:
    """Count the test samples that share a background image, or any crop, with a training sample. Training rows come first."""
    grounds, crops, shared = set[tuple[str, str]](), set[str](), Counter[str]()
    for row in rows:
        ground, ids = (row["background"]["source"], row["background"]["key"]), {f["id"] for f in row["foregrounds"]}
        if row["split"] == "train":
            grounds.add(ground)
            crops |= ids
        else:
            shared["backgrounds"] += ground in grounds
            shared["foregrounds"] += not ids.isdisjoint(crops)
    return shared


def size_category(count: int) -> str:
    names = [(1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")]
    return next((name for limit, name in names if count < limit), "n>1M")
