"""A run's scalars: CSV files that a resumed run continues, and tensorboard."""

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
            truncate_table(folder / name, step)
        self.board = SummaryWriter(str(folder), purge_step=step)

    def write(self, table: str, step: int, values: dict[str, float], *, prefix: str = "") -> None:
        """Append a row under its columns' names. A column that the table lacks is added, empty in the rows before."""
        path, row = self.folder / table, {"step": str(step), **{name: f"{value:.6g}" for name, value in values.items()}}
        columns = read_columns(path)
        added = [name for name in row if name not in columns]
        if added:
            columns += added
            rows = read_rows(path)
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(rows)
        with path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, columns, restval="").writerow(row)
        for name, value in values.items():
            self.board.add_scalar(f"{prefix}{name}", value, step)

    def close(self) -> None:
        """Close the tensorboard writer."""
        self.board.close()


def truncate_table(path: Path, step: int) -> None:
    """Drop the rows after `step`, which a killed run wrote after its last checkpoint, and an incomplete last row."""
    if path.exists():
        data = path.read_bytes()
        rows = data[: data.rfind(b"\n") + 1].splitlines()
        kept = rows[:1] + [row for row in rows[1:] if (number := row_step(row)) is not None and number <= step]
        path.write_bytes(b"".join(row + b"\n" for row in kept))
        if not kept:
            path.unlink()


def read_columns(path: Path) -> list[str]:
    """Read the names in a table's first line; none where there is no table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table's rows by column; none where there is no table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def row_step(row: bytes) -> int | None:
    """Read the step of a row; None for a damaged row, which is dropped."""
    first = row.split(b",", 1)[0]
    return int(first) if first.isdigit() and row.isascii() else None
