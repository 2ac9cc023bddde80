"""A report's tables, each built once; markup.py and the page write them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import paper
from .backbones import MISSING
from .bootstrap import LEVEL

Report = dict[str, Any]

NAMES = {
    "psnr": "PSNR", "ssim": "SSIM", "psnr_y": "PSNR-Y", "ssim_y": "SSIM-Y", "lpips": "LPIPS", "fid": "FID",
    "ocr_a": "OCR-A", "ocr_a_strict": "OCR-A strict", "line_match": "lines exact",
    "ocr_a_label": "OCR-A, labels", "ocr_a_strict_label": "strict, labels", "line_match_label": "exact, labels",
    "det_precision": "detected P", "det_recall": "detected R", "det_f1": "detected F1",
    "spot_precision": "spotted P", "spot_recall": "spotted R", "spot_f1": "spotted F1",
    "mask_iou": "mask IoU", "mask_f1": "mask F1", "mask_on_lines": "mask on lines", "lines_masked": "lines masked",
    "seconds": "s an image",
}  # fmt: skip
LOWER = ("lpips", "fid", "seconds")
ALWAYS = ("psnr", "ssim", "psnr_y", "ssim_y", "lpips", "fid", "ocr_a", "ocr_a_strict", "line_match")
WHERE_KNOWN = (
    "ocr_a_label", "ocr_a_strict_label", "line_match_label", "det_precision", "det_recall", "det_f1",
    "spot_precision", "spot_recall", "spot_f1", "mask_iou", "mask_f1", "mask_on_lines", "lines_masked", "seconds",
)  # fmt: skip
TWO = ("psnr", "psnr_y", "fid", "seconds")  # decimals; the others have four, in the paper's layout three


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False
    tone: str = ""  # for the page: better or worse


@dataclass(frozen=True)
class Table:
    """Head and cells; `groups` are titles over spans of columns, `note` says what the figures are."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    note: str
    groups: list[tuple[str, int]] = field(default_factory=list)


def make_tables(report: Report, beside: Sequence[Report] = ()) -> list[Table]:
    """Make every table of a report; beside: reports of other data sets, for the paper's Table 1."""
    built = [results_table(report), make_table_1([report, *beside]), make_table_2(report), intervals_table(report)]
    if len(report["rows"]) > 1:
        built.append(differences_table(report))
    if len(report["engines"]) > 1:
        built.append(engines_table(report))
    if report["engines"]:
        built += [bucket_table(report, kind) for kind in ("size", "language", "orientation")]
    return [*built, degradations_table(report)]


def results_table(report: Report) -> Table:
    rows = report["rows"]
    metrics = [*ALWAYS, *(name for name in WHERE_KNOWN if any(row[name] is not None for row in rows))]
    columns = [make_cells(rows, metric, lambda row, metric=metric: row[metric]) for metric in metrics]
    return Table(
        "Results",
        ["method", *(NAMES[metric] for metric in metrics)],
        make_lines([row["name"] for row in rows], columns),
        f"{describe_data(report)} OCR-A is the paper's formula, a substitution counting 1; strict counts it as 2.",
    )


def make_table_1(reports: Sequence[Report]) -> Table:
    """Make the paper's Table 1 with our rows: each under the paper's row of the same method, the others at the end."""
    sets = list(dict.fromkeys([*paper.TABLE_1, *(report["data"]["name"] for report in reports)]))
    figures: dict[str, dict[str, dict[str, Any]]] = {}  # label -> data set -> metric
    for name in paper.TABLE_1["FTSR-TE"]:
        figures[f"{name} (paper)"] = {
            data: dict(zip(paper.METRICS, methods[name], strict=True)) for data, methods in paper.TABLE_1.items()
        }
        figures |= find_rows(reports, paper.NAMES_1, name)
    figures |= find_rows(reports, paper.NAMES_1, None)
    note = f"The paper's figures beside those measured here. {' '.join(describe_data(report) for report in reports)}"
    others = [data for data in sets if data not in paper.TABLE_1]
    if others:
        note += f" {', '.join(others)} is not the paper's data: its columns compare with no figure of the paper."
    return lay_out_as_paper("Table 1", figures, sets, note)


def make_table_2(report: Report) -> Table:
    """Make the paper's Table 2, the ablations."""
    known = [row for row in report["rows"] if paper.find_paper_name(row["name"], paper.NAMES_2)]
    sets: list[str] = list(dict.fromkeys(["FTSR-TE", report["data"]["name"]] if known else ["FTSR-TE"]))
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in paper.TABLE_2.items():
        figures[f"{name} (paper)"] = {"FTSR-TE": dict(zip(paper.METRICS, values, strict=True))}
        figures |= find_rows([report], paper.NAMES_2, name)
    note = f"Rows are matched by name: full, wo_jsd, wo_taca, wo_mf. {describe_data(report)}"
    return lay_out_as_paper("Table 2", figures, sets, note)


def find_rows(
    reports: Sequence[Report], names: dict[str, str], known: str | None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Find the rows that the paper names `known`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for report in reports:
        for row in report["rows"]:
            if paper.find_paper_name(row["name"], names) == known:
                found.setdefault(row["name"], {})[report["data"]["name"]] = {m: row[m] for m in paper.METRICS}
    return found


def lay_out_as_paper(title: str, figures: dict[str, dict[str, dict[str, Any]]], sets: list[str], note: str) -> Table:
    columns = [
        make_cells(list(figures.values()), metric, lambda at, d=data, m=metric: at.get(d, {}).get(m), three=True)
        for data in sets
        for metric in paper.METRICS
    ]
    head = ["method", *(paper.HEADS[metric] for _ in sets for metric in paper.METRICS)]
    groups = [("", 1), *((data, len(paper.METRICS)) for data in sets)]
    return Table(title, head, make_lines(list(figures), columns), note, groups)


def intervals_table(report: Report) -> Table:
    rows, metrics = report["rows"], list_metrics(report)
    cells = [
        [Cell(row["name"]), *(Cell(format_interval(row[m], row["interval"][m], m)) for m in metrics)] for row in rows
    ]
    boot = report["bootstrap"]
    note = (
        f"{LEVEL} % intervals of the mean, by {boot['draws']} bootstrap draws of the {report['data']['pictures']} images "
        f"(seed {boot['seed']}). FID is no mean over images and has none. {engine_note(report)}"
    )
    return Table("Intervals", ["method", *(NAMES[m] for m in metrics)], cells, note)


def differences_table(report: Report) -> Table:
    rows, metrics = report["rows"], list_metrics(report)
    cells = [
        [Cell(row["name"]), *(difference_cell(row["difference"][metric], metric) for metric in metrics)]
        for row in rows[1:]
    ]
    note = (
        f"Each method less {rows[0]['name']} on the same images, with the {LEVEL} % interval of that difference by the same "
        f"draws; bold where it does not hold zero. {engine_note(report)}"
    )
    return Table(f"Differences to {rows[0]['name']}", ["method", *(NAMES[m] for m in metrics)], cells, note)


def engines_table(report: Report) -> Table:
    rows, metrics = report["rows"], ("ocr_a", "ocr_a_strict", "line_match")
    columns = [
        make_cells(rows, metric, lambda row, e=engine, m=metric: row["engines"][e][m])
        for engine in report["engines"]
        for metric in metrics
    ]
    head = ["method", *(NAMES[metric] for _ in report["engines"] for metric in metrics)]
    groups = [("", 1), *((engine, len(metrics)) for engine in report["engines"])]
    return Table("Engines", head, make_lines([r["name"] for r in rows], columns), describe_data(report), groups)


def bucket_table(report: Report, kind: str) -> Table:
    """Make the table of OCR-A by a kind of line, all lines of the kind weighted equally."""
    rows = report["rows"]
    names = list(rows[0]["by"][kind])
    columns = [make_cells(rows, "ocr_a", lambda row, n=name: row["by"][kind][n]["ocr_a"]) for name in names]
    spans = [
        [format_interval(None, row["by"][kind][name]["interval"]["ocr_a"], "ocr_a") for row in rows] for name in names
    ]
    columns = [
        [Cell(f"{cell.text} {text}", cell.bold, cell.tone) for cell, text in zip(cells, texts, strict=True)]
        for cells, texts in zip(columns, spans, strict=True)
    ]
    head = ["method", *(f"{name}: {format_count(rows[0]['by'][kind][name]['lines'], 'line')}" for name in names)]
    note = f"OCR-A as the mean over all lines of a kind, so that one image with many lines counts more. {engine_note(report)}"
    return Table(f"OCR-A by {kind}", head, make_lines([row["name"] for row in rows], columns), note)


def degradations_table(report: Report) -> Table:
    rows, metrics = report["rows"], ("psnr", "ssim", "ocr_a", "ocr_a_strict")
    names = list(rows[0]["by"]["degradation"])
    columns = [
        make_cells(rows, metric, lambda row, n=name, m=metric: row["by"]["degradation"][n][m])
        for name in names
        for metric in metrics
    ]
    counts = [format_count(rows[0]["by"]["degradation"][name]["pictures"], "image") for name in names]
    groups = [("", 1), *((f"{name}: {count}", len(metrics)) for name, count in zip(names, counts, strict=True))]
    head = ["method", *(NAMES[metric] for _ in names for metric in metrics)]
    note = f"{report['data']['degradation']} {engine_note(report)}"
    return Table("By degradation", head, make_lines([row["name"] for row in rows], columns), note, groups)


# ---- cells ----------------------------------------------------------------------------------------------------------


def list_metrics(report: Report) -> list[str]:
    """List the metrics with an interval that at least one row has."""
    return [name for name in NAMES if any(row["interval"].get(name) is not None for row in report["rows"])]


def make_cells(rows: Iterable[Any], metric: str, get: Callable[[Any], Any], *, three: bool = False) -> list[Cell]:
    """Make a metric's cells, the best of them bold."""
    values = [get(row) for row in rows]
    texts = [format_number(value, metric, three=three) for value in values]
    figures = [value for value in values if isinstance(value, (int, float))]
    best = format_number((min if metric in LOWER else max)(figures), metric, three=three) if len(figures) > 1 else None
    bold = [text == best and metric != "seconds" for text in texts]
    return [Cell(text, sure, "better" if sure else "") for text, sure in zip(texts, bold, strict=True)]


def make_lines(names: Sequence[str], columns: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    return [[Cell(name), *cells] for name, cells in zip(names, zip(*columns, strict=True), strict=True)]


def format_number(value: Any, metric: str, *, three: bool = False, sign: str = "") -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return f"{MISSING}{Path(value.removeprefix(MISSING)).name}" if value.startswith(MISSING) else value
    return f"{value:{sign}.{2 if metric in TWO else 3 if three else 4}f}"


def format_interval(value: float | None, bounds: Sequence[float] | None, metric: str) -> str:
    text = "" if value is None else format_number(value, metric)
    return (
        text or "–"
        if bounds is None
        else f"{text} [{format_number(bounds[0], metric)}, {format_number(bounds[1], metric)}]".strip()
    )


def difference_cell(triple: Sequence[float] | None, metric: str) -> Cell:
    if triple is None:
        return Cell("–")
    value, low, high = (format_number(part, metric, sign="+") for part in triple)
    sure = not triple[1] <= 0 <= triple[2]
    tone = "better" if (triple[0] > 0) != (metric in LOWER) else "worse"
    return Cell(f"{value} [{low}, {high}]", sure, tone if sure else "")


def format_count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def engine_note(report: Report) -> str:
    return f"OCR: {report['engines'][0]}." if report["engines"] else "Without OCR."


def describe_data(report: Report) -> str:
    data = report["data"]
    text = f"{data['name']}: {format_count(data['pictures'], 'image')} ({data['layout']}, {data['split']})"
    if not report["engines"]:
        return f"{text}. Without OCR."
    row = report["rows"][0]
    lines = f"{format_count(row['lines'], 'line')} in {row['pictures_with_text']} of them"
    return f"{text}, {lines}. OCR: {'; '.join(report['engines'])}."
