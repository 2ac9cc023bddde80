"""Text is utf-8 wherever the program reads or writes it: no call depends on the locale's encoding."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

FOLDERS = ("tadisr", "train", "nodes", "web", "workflows", "sample", "locales")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# Calls that open text unless told otherwise: where their mode stands among the arguments.
OPENERS = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0}
METHODS = {"read_text": 0, "write_text": 1, "FileHandler": 2}  # where the encoding stands
RUNNERS = {"run", "Popen", "check_output"}


def find_bare_calls(source: str) -> Iterator[int]:
    """Yield the lines of calls that read or write text and do not name its encoding."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", None)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in keywords or None in keywords:
            continue
        if (
            (name in METHODS and len(node.args) <= METHODS[name])
            or (name in RUNNERS and owner == "subprocess" and {"text", "universal_newlines"} & keywords.keys())
            or (name in OPENERS and owner not in ("Image", "tarfile") and opens_text(node, name, keywords))
        ):
            yield node.lineno


def opens_text(node: ast.Call, name: str, keywords: dict[str | None, ast.expr]) -> bool:
    place = OPENERS[name] if isinstance(node.func, ast.Name) or name != "open" else 0  # Path.open's mode comes first
    mode = keywords.get("mode", node.args[place] if len(node.args) > place else None)
    if mode is None:
        return OPENERS[name] == 1  # temporary files are binary
    return isinstance(mode, ast.Constant) and "b" not in str(mode.value)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("open(p)", 1), ("open(p, 'w')", 1), ("open(p, 'rb')", 0), ("open(p, encoding='utf-8')", 0), ("p.open()", 1),
        ("p.open('rb')", 0), ("p.read_text()", 1), ("p.read_text('utf-8')", 0), ("p.write_text(t, encoding='utf-8')", 0),
        ("os.fdopen(h, 'w+b')", 0),
        ("subprocess.run(c, text=True)", 1), ("subprocess.run(c)", 0), ("tempfile.NamedTemporaryFile('w')", 1),
        ("tempfile.TemporaryFile()", 0), ("Image.open(p)", 0), ("tarfile.open(p, mode='w')", 0),
    ],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(source: str, found: int) -> None:
    assert len(list(find_bare_calls(source))) == found


def test_text_names_its_encoding() -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in FILES for line in find_bare_calls(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_training_under_a_locale_that_is_not_utf_8(encoding: str, tmp_path: Path) -> None:
    """A config with other scripts in it, and an error that names its file to a console that cannot show it."""
    config = tmp_path / "看板 é.yaml"
    config.write_bytes("out: 出 é\nstepz: 3\n".encode())
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    done = subprocess.run(
        [sys.executable, "-m", "train.fit", config], capture_output=True, cwd=ROOT, env={**os.environ, **locale}
    )
    assert done.returncode == 1 and b"unknown field 'stepz'" in done.stderr and b"Traceback" not in done.stderr
    code = "import locale, train.config as c; from pathlib import Path; print(locale.getpreferredencoding(False)); "
    code += "print(ascii(c.load_table(Path(__import__('sys').argv[1]))['out']))"
    done = subprocess.run(
        [sys.executable, "-c", code, config], capture_output=True, cwd=ROOT, env={**os.environ, **locale}
    )
    found, value = done.stdout.decode().splitlines()
    assert found.lower().replace("-", "") != "utf8" and value == ascii("出 é")
