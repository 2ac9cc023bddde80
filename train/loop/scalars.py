"""A run's scalars: CSV files that a resumed run goes on with, and tensorboard."""

from __future__ import annotations

import csv
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter  # pyright: ignore[reportPrivateImportUsage]

TABLES = ("log.csv", "validation.csv")


class Journal:
    """`log.csv` and `validation.csv`, one row a record, and the same to tensorboard."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        for name in TABLES:
            truncate(folder / name, step)
        self.board = SummaryWriter(str(folder), purge_step=step)

    def write(self, table: str, step: int, values: dict[str, float], *, prefix: str = "") -> None:
        path = self.folder / table
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        for name, value in values.items():
            self.board.add_scalar(f"{prefix}{name}", value, step)

    def close(self) -> None:
        self.board.close()


def truncate(path: Path, step: int) -> None:
    """Drop the rows a killed run wrote after its last checkpoint, and a row it did not finish."""
    if path.exists():
        text = path.read_text()
        rows = text[: text.rfind("\n") + 1].splitlines()
        kept = rows[:1] + [row for row in rows[1:] if int(row.split(",", 1)[0]) <= step]
        path.write_text("".join(f"{row}\n" for row in kept))
        if not kept:
            path.unlink()
