"""A training run to look at: `python -m train.report RUN [RUN ...] [-o FOLDER]`.

Draws what train.fit has written, log.csv and validation.csv, into losses.png, validation.png and one page, report.html, with
the latest panel. Several runs are drawn over one another. A run that is still going can be drawn at any time.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tadisr.atomic_write import write_atomic
from tadisr.checkpoints import adapter
from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError

from .pages import render_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = dict[str, tuple[list[int], list[float]]]  # by column: steps and values

COLORS = ("#2563eb", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#a61e4d")
SMOOTH = 0.02  # of a run's length: the width of the running mean
COLUMNS = 3
NOT_LOSSES = ("lr", "gradient", "waiting", "steps_per_second", "gflops", "convolutions", "seconds", "memory", "scale")
TITLES = {
    "total": "total loss", "mse": "MSE", "lpips": "LPIPS", "mf": "modified focal (Eq. 8)", "seg_mse": "mask MSE",
    "focal": "focal", "dice": "Dice", "lr": "learning rate",
    "waiting": "share of time waiting for data", "psnr": "PSNR in dB", "ocr_a": "OCR-A",
    "mask_iou": "mask IoU",
}  # fmt: skip
REFERENCE = {"psnr": "psnr_bicubic", "ocr_a": "ocr_a_bicubic"}  # drawn dashed into the same place


@dataclass(frozen=True)
class Run:
    """The logs of a run's folder."""

    folder: Path
    log: Curves
    validation: Curves

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def panel(self) -> Path | None:
        return max(self.folder.glob("panel-*.png"), default=None)

    @property
    def settings(self) -> str:
        """The training settings in the header of the run's checkpoint, as JSON; empty without a checkpoint."""
        file = self.folder / "model.safetensors"
        return json.dumps(adapter.read_header(file).training, indent=1, ensure_ascii=False) if file.is_file() else ""


def read_run(folder: Path) -> Run:
    """Read a run's folder. Raises ConfigError if it has no log, or an empty one."""
    if not (folder / "log.csv").is_file():
        raise ConfigError(f"{folder} has no log.csv: it is no run of train.fit, or has not logged a step yet.")
    log = read_curves(folder / "log.csv")
    if not log:
        raise ConfigError(f"{folder / 'log.csv'} has no step in it yet.")
    file = folder / "validation.csv"
    return Run(folder, log, read_curves(file) if file.is_file() else {})


def read_curves(path: Path) -> Curves:
    """Read a CSV of scalars into columns over steps; empty cells and an incomplete last row are left out. Raises
    ConfigError.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curves: Curves = {}
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            if number == len(rows):
                break
            raise ConfigError(f"{path}: row {number} has not as many cells as the head.")
        try:
            step = int(row.pop("step"))
            values = {name: float(text) for name, text in row.items() if text != ""}
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{path}: row {number} is no row of numbers ({error}).") from error
        for name, value in values.items():
            steps, found = curves.setdefault(name, ([], []))
            steps.append(step)
            found.append(value)
    return curves


def smooth_curve(values: Sequence[float]) -> list[float]:
    """Compute the running mean over a window of SMOOTH of the curve, shorter at the ends."""
    width = max(1, round(len(values) * SMOOTH))
    finite = np.nan_to_num(np.array(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    kernel = np.ones(2 * width - 1)
    total = np.convolve(finite, kernel, "same") if len(finite) >= len(kernel) else np.full(len(finite), finite.sum())
    count = np.convolve(np.ones(len(finite)), kernel, "same") if len(finite) >= len(kernel) else len(finite)
    return (total / count).tolist()


# ---- drawing --------------------------------------------------------------------------------------------------------


def make_axes(count: int) -> tuple[Figure, list[Axes]]:
    """Create a figure with `count` axes in rows of COLUMNS. Raises ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("Drawing needs matplotlib: pip install 'tadisr[train]'.") from error
    rows = math.ceil(count / COLUMNS)
    columns = min(count, COLUMNS)
    figure = Figure(figsize=(5.2 * columns, 3.3 * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for ax in axes:
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.margins(x=0.01)
        ax.tick_params(labelsize=8, which="both")
        ax.set_xlabel("step", fontsize=8)
    return figure, axes


def draw_losses(runs: Sequence[Run]) -> Figure:
    """Draw every column of the logs, values pale under their running mean, losses on a logarithmic scale."""
    names = list(dict.fromkeys(name for run in runs for name in run.log))
    names.sort(key=lambda name: (name in NOT_LOSSES, name != "total"))
    figure, axes = make_axes(len(names))
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(TITLES.get(name, name), fontsize=10, loc="left")
        for run, color in zip(runs, _colors(len(runs)), strict=True):
            if name not in run.log:
                continue
            steps, values = run.log[name]
            loss = name not in NOT_LOSSES
            ax.plot(steps, values, color=color, alpha=0.25 if loss else 1, linewidth=0.8 if loss else 1.4)
            if loss:
                ax.plot(steps, smooth_curve(values), color=color, linewidth=1.6, label=run.name)
            if loss and all(value > 0 for value in values):
                ax.set_yscale("log")
        if name == "waiting":
            ax.set_ylim(0, max(0.05, ax.get_ylim()[1]))
    _legend(axes[0], runs)
    return figure


def draw_validation(runs: Sequence[Run]) -> Figure | None:
    """Draw every column of the validation: bicubic dashed, a dot at a run's best. Returns None without validation."""
    dashed = set(REFERENCE.values())
    names = list(dict.fromkeys(name for run in runs for name in run.validation if name not in dashed))
    if not names:
        return None
    figure, axes = make_axes(len(names))
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(TITLES.get(name, name), fontsize=10, loc="left")
        for run, color in zip(runs, _colors(len(runs)), strict=True):
            if name not in run.validation:
                continue
            steps, values = run.validation[name]
            ax.plot(steps, values, color=color, linewidth=1.6, marker=".", markersize=4, label=run.name)
            best = int(np.nanargmax(values)) if not np.isnan(values).all() else None
            if best is not None:
                ax.plot(steps[best], values[best], "o", color=color, markersize=7)
                ax.annotate(f"{values[best]:.4g}", (steps[best], values[best]), xytext=(5, 5), fontsize=8,
                            textcoords="offset points", color=color)  # fmt: skip
            if REFERENCE.get(name) in run.validation:
                ax.plot(*run.validation[REFERENCE[name]], color=color, linewidth=1, linestyle="--", alpha=0.7)
    _legend(axes[0], runs)
    return figure


def _colors(count: int) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(count)]


def _legend(ax: Axes, runs: Sequence[Run]) -> None:
    if len(runs) > 1:
        ax.legend(fontsize=8, frameon=False)


# ---- the page -------------------------------------------------------------------------------------------------------


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write the figures and report.html into the folder `out`; return the page's path."""
    figures = {"losses.png": draw_losses(runs), "validation.png": draw_validation(runs)}
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, out / name)
    for run in runs:
        if run.panel is not None:
            copy = run.panel.read_bytes()
            write_atomic(out / f"panel-{run.name}.png", lambda path, copy=copy: Path(path).write_bytes(copy))
    head, rows = summarize_runs(runs)
    validated = figures["validation.png"] is not None
    html = render_page("run.html.j2", runs=runs, head=head, rows=rows, validated=validated)
    page = out / "report.html"
    write_atomic(page, lambda temporary: Path(temporary).write_text(html, encoding="utf-8"))
    return page


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure as PNG, whole or not at all."""
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def summarize_runs(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of a table: each run's last step, its smoothed losses there, the best of each validation score."""
    losses = list(dict.fromkeys(name for run in runs for name in run.log if name not in NOT_LOSSES))
    scores = list(dict.fromkeys(name for run in runs for name in run.validation if name not in REFERENCE.values()))
    head = ["run", "step", *losses, *(f"best {name}" for name in scores)]
    rows = []
    for run in runs:
        last = [f"{smooth_curve(run.log[name][1])[-1]:.4g}" if name in run.log else "–" for name in losses]
        best = [format_best(run.validation[name]) if name in run.validation else "–" for name in scores]
        rows.append([run.name, str(max(steps[-1] for steps, _ in run.log.values())), *last, *best])
    return head, rows


def format_best(curve: tuple[list[int], list[float]]) -> str:
    """Format the highest value of a curve and its step."""
    steps, values = curve
    if np.isnan(values).all():
        return "–"
    best = int(np.nanargmax(values))
    return f"{values[best]:.4g} at {steps[best]}"


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.report", description="Draw the curves of training runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder of train.fit; several are overlaid")
    parser.add_argument("-o", "--out", type=Path, help="folder of the report (default: report in the first run)")
    arguments = parser.parse_args(argv)
    try:
        print(write_report([read_run(run) for run in arguments.runs], arguments.out or arguments.runs[0] / "report"))
    except TADiSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
