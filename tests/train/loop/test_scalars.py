"""The tables of a run keep each value under its own column."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

pytest.importorskip("tensorboard", reason="training needs the extra train: pip install -e '.[train]'")


def test_a_table_of_an_older_version_gets_the_new_column(tmp_path: Path) -> None:
    from train.loop.scalars import Journal

    (tmp_path / "log.csv").write_text("step,mse,waiting\n10,0.5,0.1\n")
    journal = Journal(tmp_path, 10)
    journal.write("log.csv", 20, {"mse": 0.25, "waiting": 0.2, "steps_per_second": 3.0})
    journal.write("log.csv", 30, {"waiting": 0.3, "steps_per_second": 4.0})
    journal.close()
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "10", "mse": "0.5", "waiting": "0.1", "steps_per_second": ""},
        {"step": "20", "mse": "0.25", "waiting": "0.2", "steps_per_second": "3"},
        {"step": "30", "mse": "", "waiting": "0.3", "steps_per_second": "4"},
    ]
