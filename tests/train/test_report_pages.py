"""Report pages: names and OCR text with markup are text, and their Content-Security-Policy holds in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, chromium
from PIL import Image
from small_ftsr import tables

from train.evaluation import markup
from train.evaluation.page import fill_template
from train.evaluation.tables import Cell, Table
from train.pages import allow_only
from train.report import main as draw_report
from train.synthesis.engine.journal import Journal
from train.synthesis.report.page import write_report

HOSTILE = "<img src=x onerror=window.hit=1>&\"'`"
ESCAPED = "&lt;img src=x onerror=window.hit=1&gt;&amp;"
NAME = HOSTILE + "#%3F?"  # of a folder: what an address must quote


def write_training_page(folder: Path) -> Path:
    """The page of `train.report`, of a run whose folder and columns have markup in their names."""
    run = folder / NAME
    run.mkdir()
    column = HOSTILE.replace('"', "")
    (run / "log.csv").write_text(f"step,total,{column}\n1,2,3\n2,1,3\n", encoding="utf-8")
    (run / "validation.csv").write_text(f"step,psnr,v{column}\n1,20,3\n2,21,3\n", encoding="utf-8")
    Image.new("RGB", (50, 20), "teal").save(run / "panel-0000020.png")
    assert draw_report([str(run)]) == 0
    return run / "report" / "report.html"


def write_judge_page(folder: Path) -> Path:
    """The page of `train.evaluate`, filled with markup wherever a name or read text goes."""
    (folder / "crops").mkdir()
    Image.new("RGB", (40, 20), "teal").save(folder / "crops" / "a.jpg")
    view = {"name": HOSTILE, "text": HOSTILE, "score": 0.5, "file": "crops/a.jpg", "psnr": 20.0, "ocr_a": 0.5}
    view["texts"] = [{"text": HOSTILE, "right": False}]
    cards = [
        {"key": HOSTILE, "line": 1, "kinds": [HOSTILE], "shown": [view], "scores": [score]} for score in (0.9, 0.1, 0.5)
    ]
    cell = {"text": HOSTILE, "bold": True, "tone": ""}
    report = {
        "data": dict.fromkeys(("name", "folder", "layout", "split"), HOSTILE) | {"pictures": 3},
        "engines": [HOSTILE], "minimum_confidence": 0.5, "conventions": {HOSTILE: HOSTILE}, "notes": [HOSTILE],
    }  # fmt: skip
    table = {"title": HOSTILE, "head": [HOSTILE], "groups": [(HOSTILE, 1)], "rows": [[cell]], "note": HOSTILE}
    page = folder / "report.html"
    page.write_text(
        fill_template(report=report, tables=[table], methods=[HOSTILE], lines=cards, pictures=cards[:1]),
        encoding="utf-8",
    )
    return page


def write_synthesis_page(folder: Path) -> Path:
    """The page of `train.synthesis report`, of a build whose images could not be read."""
    (folder / "work").mkdir()
    config: dict[str, Any] = tables(folder / NAME) | {
        "segment": {"model": f"models/{HOSTILE}"},
        "enhance": {"model": HOSTILE},
    }
    (folder / "work" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    journal = Journal(folder / "work" / "masks" / "journal.jsonl", {})
    journal.add(0, [{"key": HOSTILE, "status": "broken", "reason": HOSTILE}])
    journal.close()
    crops = Journal(folder / "work" / "filter" / "journal.jsonl", {})
    crop = {
        "key": HOSTILE,
        "status": "dropped",
        "reason": "unlike",
        "why": HOSTILE,
        "foreground": 1,
        "box": [0, 0, 9, 9],
    }
    crops.add(0, [crop | {"similarity": 0.5, "pixels_per_character": 9.0, "index": 0, "mask": None, "line": None}])
    crops.close()
    return write_report(folder)


PAGES = [write_training_page, write_judge_page, write_synthesis_page]


@pytest.mark.parametrize("write", PAGES)
def test_markup_in_names_is_text(write: Callable[[Path], Path], tmp_path: Path) -> None:
    text = write(tmp_path).read_text("utf-8")
    assert "<img src=x" not in text and ESCAPED in text
    meta = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', text)
    assert meta is not None and text.index("http-equiv") < text.index("<title>")
    rules = dict(rule.strip().split(" ", 1) for rule in meta[1].split(";"))
    assert rules["default-src"] == "'none'" and "unsafe" not in rules["script-src"]
    assert ("<script" in text) == ("sha256-" in rules["script-src"])


def test_markup_in_markdown_and_latex_is_text() -> None:
    cell = Cell(f"{HOSTILE}|[a](b)\n# c")
    table = Table(f"{HOSTILE}\n", [HOSTILE, "x"], [[cell, cell]], note=f"{HOSTILE}[a](b)")
    text = markup.format_markdown(table)
    assert "<" not in text and not re.search(r"(?<!\\)[\[\]`]", text) and "\n# c" not in text
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}) == 1
    assert markup.format_latex(Table("a_b", ["c%"], [[Cell("d#{e}\\input")]], "")).count(r"\input") == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def visit(browser: Any, page: Path) -> tuple[Any, list[str]]:
    """The open page, and what the browser complained of."""
    opened, said = browser.new_page(), []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(page.as_uri(), wait_until="load")
    opened.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    opened.wait_for_function("[...document.images].every(image => image.complete)", timeout=5000)
    return opened, said


@pytest.mark.host
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("write", PAGES)
def test_pages_under_their_policy_in_chromium(write: Callable[[Path], Path], browser: Any, tmp_path: Path) -> None:
    page = write(tmp_path)
    opened, said = visit(browser, page)
    assert said == [] and opened.evaluate("window.hit") is None
    assert opened.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    if write is write_judge_page:  # its own script has sorted the cards
        scores = opened.evaluate("[...document.querySelectorAll('[data-scores]')].map(card => card.dataset.scores)")
        assert scores == ["0.1", "0.5", "0.9"]
    attack = "<script>window.hit = 1</script><img src=y onerror='window.hit = 1'><p onclick='window.hit = 1'>press</p>"
    text = page.read_text("utf-8").replace("</html>", attack + "</html>")
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    for guarded in (True, False):
        other = page.with_name(f"attacked-{guarded}.html")
        other.write_text(text if guarded else text.replace(policy[0], ""), encoding="utf-8")
        opened, said = visit(browser, other)
        opened.get_by_text("press").click()
        assert opened.evaluate("window.hit") == (None if guarded else 1)
        assert any("Content Security Policy" in line for line in said) == guarded


def test_a_policy_without_scripts_allows_none() -> None:
    assert "script-src 'none'" in allow_only("")
