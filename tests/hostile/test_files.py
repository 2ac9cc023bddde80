"""Hostile files: each is answered or refused in one sentence, quickly, in little memory, touching nothing else.

`pytest tests/hostile/test_files.py --share 1` runs all cases of docs/lab/hostile.md and prints its table.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import TALLIES, Tally, Worker
from hypothesis import strategies as st
from mutations import Write, draw_cases, safetensors
from other_files import config, image, release, write_state
from tiny import tiny_kolors_config

from tadisr import COMPACT
from train import config as settings
from train.synthesis import config as synthesis

RAN = Path("/tmp/tadisr_hostile_code_ran")  # what the hostile pickles would make
CONFIGS = Path(settings.__file__).parent / "configs"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.stop()


def run_cases(
    worker: Worker, name: str, kind: str, folder: Path, suffix: str, good: Path | None, cases: list[tuple[str, Write]]
) -> None:
    """Run a good file, then each case, in `folder`/files; the canary outside of it stays as it was."""
    files = folder / "files"
    files.mkdir(exist_ok=True)
    canary = folder.parent / f"canary-{kind}.safetensors"
    canary.write_text("canary")
    RAN.unlink(missing_ok=True)
    usual = 0
    if good is not None:
        copied = files / f"good{suffix}"
        shutil.copy(good, copied)
        for _ in range(2):
            result = worker.run({"kind": kind, "path": str(copied), "folder": str(folder)}, 120)
            assert result["outcome"] == "answer", result
            usual = max(usual, result["peak"])
    tally = Tally(name)
    TALLIES.append(tally)
    for number, (label, write) in enumerate(cases):
        path = files / f"case{number}{suffix}"
        write(path)
        warm = worker.process is not None
        tally.add(
            f"{number} {label}",
            worker.run({"kind": kind, "path": str(path), "folder": str(folder)}, 10 if warm else 120),
            usual,
        )
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    assert canary.read_text() == "canary" and not RAN.exists()
    assert os.listdir(files) in ([], [f"good{suffix}"]), "files were left behind"
    assert not tally.problems, "\n".join(tally.problems[:20])


def number(count: int, share: float) -> int:
    return max(3, round(count * share))


def test_mutated_checkpoints_are_refused_in_one_sentence(worker: Worker, tmp_path: Path, share: float) -> None:
    """The smallest part of the suite, in the quick tests too."""
    cases = draw_cases(safetensors(COMPACT.read_bytes()), number(250, share), 1)
    (tmp_path / "x").mkdir()
    run_cases(worker, "compact checkpoints", "checkpoint", tmp_path / "x", ".safetensors", COMPACT, cases)


@pytest.mark.slow
def test_mutated_adapters_are_refused_in_one_sentence(worker: Worker, hostile_base: Path, share: float) -> None:
    good = hostile_base / "adapter.safetensors"
    cases = draw_cases(safetensors(good.read_bytes()), number(75, share), 2)
    run_cases(worker, "adapters on a base", "adapter", hostile_base, ".safetensors", good, cases)


@pytest.mark.slow
def test_mutated_bases_are_refused_in_one_sentence(worker: Worker, hostile_base: Path, share: float) -> None:
    good = next((hostile_base / "base" / "unet").glob("*.safetensors"))
    cases = draw_cases(safetensors(good.read_bytes()), number(75, share), 3)
    run_cases(worker, "U-Nets of a base", "base", hostile_base, ".safetensors", good, cases)


@pytest.mark.slow
def test_mutated_prompt_files_are_refused_in_one_sentence(worker: Worker, tmp_path: Path, share: float) -> None:
    import torch

    from tadisr.prompt import EncodedPrompt

    tiny = tiny_kolors_config().prompt
    good = tmp_path / "prompt.safetensors"
    EncodedPrompt(
        embedding=torch.zeros(1, tiny.tokens, tiny.width), pooled=torch.zeros(1, tiny.pooled), text="a text", word="text",
        mask=torch.ones(tiny.tokens, dtype=torch.int64), positions=torch.tensor([tiny.tokens - 1]),
    ).save(good)  # fmt: skip
    (tmp_path / "x").mkdir()
    run_cases(
        worker, "prompt files", "prompt", tmp_path / "x", ".safetensors", good,
        draw_cases(safetensors(good.read_bytes()), number(50, share), 4),
    )  # fmt: skip


@pytest.mark.slow
def test_mutated_releases_are_refused_in_one_sentence(worker: Worker, tmp_path: Path, share: float) -> None:
    good = tmp_path / "good.pkl"
    state = write_state(good)
    (tmp_path / "x").mkdir()
    cases = draw_cases(release(good.read_bytes(), state), number(50, share), 5)
    run_cases(worker, "release pickles", "release", tmp_path / "x", ".pkl", good, cases)


@pytest.mark.slow
def test_mutated_images_are_refused_in_one_sentence(worker: Worker, tmp_path: Path, share: float) -> None:
    (tmp_path / "x").mkdir()
    good = Path(settings.__file__).parents[1] / "sample" / "sample.png"
    run_cases(worker, "images", "image", tmp_path / "x", ".png", good, draw_cases(image(), number(300, share), 6))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["training", "synthesis"])
def test_mutated_configs_are_refused_in_one_sentence(worker: Worker, tmp_path: Path, share: float, kind: str) -> None:
    file = CONFIGS / ("compact_legible.yaml" if kind == "training" else "ftsr-smoke.yaml")
    table: dict[str, Any] = settings.load_table(file)
    table |= {"model": {"preset": "compact", "decoder": {"text_layers": 2}}} if kind == "training" else {}
    good = tmp_path / f"{kind}.yaml"
    good.write_text(yaml.safe_dump(table))
    (tmp_path / "x").mkdir()
    assert synthesis.read_config(good) if kind == "synthesis" else settings.read_config(good)
    cases: list[tuple[str, Write]] = draw_cases(config(table), number(50, share), 7)
    run_cases(worker, f"{kind} configs", "yaml", tmp_path / "x", f"-{kind}.yaml", good, cases)


def test_the_same_seed_draws_the_same_cases() -> None:
    assert draw_cases(st.integers(0, 10**9), 5, 1) == draw_cases(st.integers(0, 10**9), 5, 1)
