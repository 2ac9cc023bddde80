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
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from tadisr.atomic_write import write_atomic
from tadisr.checkpoints import adapter
from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError

from .page_policy import policy_meta

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
    """What a folder of train.fit holds."""

    folder: Path
    log: Curves
    validation: Curves

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def panel(self) -> Path | None:
        return max(self.folder.glob("panel-*.png"), default=None)


def read_run(folder: Path) -> Run:
    """Raises ConfigError where there is no log, or nothing in it yet."""
    if not (folder / "log.csv").is_file():
        raise ConfigError(f"{folder} has no log.csv: it is no run of train.fit, or has not logged a step yet.")
    log = read_curves(folder / "log.csv")
    if not log:
        raise ConfigError(f"{folder / 'log.csv'} has no step in it yet.")
    file = folder / "validation.csv"
    return Run(folder, log, read_curves(file) if file.is_file() else {})


def read_curves(path: Path) -> Curves:
    """Columns over steps; empty cells are left out, and so is a last line that is only half written."""
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


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean as wide as SMOOTH of the whole, over what is there at the ends."""
    width = max(1, round(len(values) * SMOOTH))
    finite = np.nan_to_num(np.array(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    kernel = np.ones(2 * width - 1)
    total = np.convolve(finite, kernel, "same") if len(finite) >= len(kernel) else np.full(len(finite), finite.sum())
    count = np.convolve(np.ones(len(finite)), kernel, "same") if len(finite) >= len(kernel) else len(finite)
    return (total / count).tolist()


# ---- drawing --------------------------------------------------------------------------------------------------------


def grid(count: int) -> tuple[Figure, list[Axes]]:
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
    """Every column of the logs: values pale, their running mean over them; losses on a logarithmic scale."""
    names = list(dict.fromkeys(name for run in runs for name in run.log))
    names.sort(key=lambda name: (name in NOT_LOSSES, name != "total"))
    figure, axes = grid(len(names))
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(TITLES.get(name, name), fontsize=10, loc="left")
        for run, color in zip(runs, _colors(len(runs)), strict=True):
            if name not in run.log:
                continue
            steps, values = run.log[name]
            loss = name not in NOT_LOSSES
            ax.plot(steps, values, color=color, alpha=0.25 if loss else 1, linewidth=0.8 if loss else 1.4)
            if loss:
                ax.plot(steps, smooth(values), color=color, linewidth=1.6, label=run.name)
            if loss and all(value > 0 for value in values):
                ax.set_yscale("log")
        if name == "waiting":
            ax.set_ylim(0, max(0.05, ax.get_ylim()[1]))
    _legend(axes[0], runs)
    return figure


def draw_validation(runs: Sequence[Run]) -> Figure | None:
    """Every column of the validation; what the plain enlargement gets is dashed, a run's best has a dot. None without any."""
    dashed = set(REFERENCE.values())
    names = list(dict.fromkeys(name for run in runs for name in run.validation if name not in dashed))
    if not names:
        return None
    figure, axes = grid(len(names))
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

STYLE = """
body { margin: 2rem auto 5rem; max-width: 1500px; padding: 0 1.5rem; font: 15px/1.5 system-ui, sans-serif; color: #1c1f23; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; } p { color: #556; }
img { max-width: 100%; height: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem; text-align: right; border-bottom: 1px solid #dde; }
th:first-child, td:first-child { text-align: left; }
pre { background: #f4f5f7; padding: .8rem 1rem; overflow-x: auto; font-size: .8rem; border-radius: 6px; }
"""


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write the figures and the page into `out`; the page's path."""
    figures = {"losses.png": draw_losses(runs), "validation.png": draw_validation(runs)}
    for name, figure in figures.items():
        if figure is not None:
            save(figure, out / name)
    parts = [f"<h1>{escape(', '.join(run.name for run in runs))}</h1>", summary(runs)]
    if figures["validation.png"] is not None:
        parts.append(
            '<h2>Validation</h2><img src="validation.png" alt="validation">'
            "<p>A dot marks the best, dashes the plain enlargement.</p>"
        )
    parts.append(
        '<h2>Training</h2><img src="losses.png" alt="losses"><p>Losses as weighted in the sum; over them a running mean.</p>'
    )
    for run in runs:
        if run.panel is not None:
            name = f"panel-{run.name}.png"
            copy = run.panel.read_bytes()
            write_atomic(out / name, lambda temporary, copy=copy: Path(temporary).write_bytes(copy))
            parts.append(
                f'<h2>{escape(run.name)}: {escape(run.panel.stem)}</h2><img src="{quote(name)}" alt="panel">'
                "<p>Upscaled LR, ours, HR, then the mask and the true mask.</p>"
            )
        parts.append(training(run))
    head = '<!doctype html><html lang="en"><meta charset="utf-8">' + policy_meta()
    html = f"{head}<title>{escape(runs[0].name)}</title><style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    page = out / "report.html"
    write_atomic(page, lambda temporary: Path(temporary).write_text(html, encoding="utf-8"))
    return page


def save(figure: Figure, path: Path) -> None:
    write_atomic(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))


def summary(runs: Sequence[Run]) -> str:
    """A table of where each run stands: its step, the smoothed losses there, the best of each validation score."""
    losses = list(dict.fromkeys(name for run in runs for name in run.log if name not in NOT_LOSSES))
    scores = list(dict.fromkeys(name for run in runs for name in run.validation if name not in REFERENCE.values()))
    head = ["run", "step", *losses, *(f"best {name}" for name in scores)]
    rows = []
    for run in runs:
        last = [f"{smooth(run.log[name][1])[-1]:.4g}" if name in run.log else "–" for name in losses]
        best = [best_of(run.validation[name]) if name in run.validation else "–" for name in scores]
        rows.append([run.name, str(max(steps[-1] for steps, _ in run.log.values())), *last, *best])
    lines = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{''.join(lines)}</table>"


def best_of(curve: tuple[list[int], list[float]]) -> str:
    steps, values = curve
    if np.isnan(values).all():
        return "–"
    best = int(np.nanargmax(values))
    return f"{values[best]:.4g} at {steps[best]}"


def training(run: Run) -> str:
    """What the run's checkpoint says of itself, where there is one."""
    file = run.folder / "model.safetensors"
    if not file.is_file():
        return ""
    says: dict[str, Any] = adapter.read_header(file).training
    return f"<h2>{escape(run.name)}: settings</h2><pre>{escape(json.dumps(says, indent=1, ensure_ascii=False))}</pre>"


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
