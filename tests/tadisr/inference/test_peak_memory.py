"""Memory beside input and output, measured as the peak of a child process with a network that costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")

ROOT = Path(__file__).parents[3]


def run_measurement(*arguments: object) -> list[list[str]]:
    """The rows of the table that `tests/measure/peak_memory.py` prints, as cells."""
    done = subprocess.run(
        [sys.executable, "tests/measure/peak_memory.py", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "262144"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    return [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]


@pytest.mark.parametrize("cases", ["quick", pytest.param("all", marks=pytest.mark.slow)])
def test_half_of_input_and_output_and_two_tiles(cases: str) -> None:
    rows = run_measurement("library", cases)
    assert len(rows) == (3 if cases == "quick" else 12)
    for row in rows:
        assert float(row[-2]) <= float(row[-1]), row


@pytest.mark.slow
def test_400_megapixels_are_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input's 100 MP in 8 bits are held, once as Pillow decodes them, and one row of tiles; 1.2 GB come out. Minutes."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    ((_, peak, _),) = run_measurement("command", tmp_path, "png")
    with Image.open(tmp_path / "output.png") as image:
        assert image.size == (20000, 20000)
    assert float(peak) < 1000
