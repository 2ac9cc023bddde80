"""The commands that the documents tell: modules, subcommands, options, config files and overrides exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from functools import cache

import pytest
from repository import ROOT

from train.config import read_config
from train.segmentation.fit import read_config as read_segmenter
from train.synthesis.config import read_config as read_synthesis

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"python -m ((?:train|tadisr)(?:\.\w+)*)((?:[^\n`#|]|\\\n)*)")
SUBCOMMANDS = {"tadisr", "train.synthesis", "train.segmentation", "train.synthesis.segmenter", "train.data.pool"}
READERS = {"train.fit": read_config, "train.memory": read_config, "train.plan": read_config}
PLACEHOLDERS = ("FILE", "NAME", "CONFIG", "...", "$", "RUN", "OUT")


def list_commands() -> list[tuple[str, str, tuple[str, ...]]]:
    """Every (document, module, words after it) that the documents tell; optional parts lose their brackets."""
    found = []
    for path in DOCUMENTS:
        for module, rest in COMMAND.findall(path.read_text("utf-8")):
            text = rest.replace("\\\n", " ").split("; done")[0].split(" && ")[0].rstrip(" ).,;:")
            try:
                words = shlex.split(text)
            except ValueError:  # an apostrophe of the sentence around it
                words = text.split()
            found.append((str(path.relative_to(ROOT)), module, tuple(words)))
    return found


COMMANDS = list_commands()


@cache
def options_of(module: str, subcommand: str | None) -> set[str]:
    """The options that a command's help names."""
    command = [sys.executable, "-m", module, *([subcommand] if subcommand else []), "--help"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command[1:])}: {done.stderr}"
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", done.stdout))


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 80 and {"tadisr", "train.fit", "train.evaluate"} <= {module for _, module, _ in COMMANDS}


def test_the_modules_exist() -> None:
    missing = set()
    for document, module, _ in COMMANDS:
        if module.endswith(".NAME"):
            continue
        spec = importlib.util.find_spec(module)
        runs = spec is not None and (
            spec.submodule_search_locations is None or importlib.util.find_spec(f"{module}.__main__")
        )
        if not runs:
            missing.add(f"{document}: {module}")
    assert not missing


def test_the_configs_exist_and_take_the_overrides() -> None:
    for document, module, words in COMMANDS:
        configs = [word for word in words if word.endswith(".yaml") and not any(part in word for part in PLACEHOLDERS)]
        for name in configs:
            assert (ROOT / name).is_file(), f"{document}: {name}"
        overrides = [w for w in words if re.match(r"[a-z_.]+=", w) and not any(part in w for part in PLACEHOLDERS)]
        if not configs or any("$" in word for word in words):
            continue
        if module in READERS:
            READERS[module](ROOT / configs[0], overrides)
        elif module == "train.synthesis" and words[0] in ("build", "bench"):
            read_synthesis(ROOT / configs[0], overrides)
        elif module in ("train.segmentation", "train.synthesis.segmenter") and words[0] == "fit":
            read_segmenter(ROOT / configs[0], overrides)


@pytest.mark.slow
def test_the_options_exist() -> None:
    wrong = []
    for document, module, words in COMMANDS:
        given = {word.split("=")[0] for word in words if re.fullmatch(r"\[?--?[a-zA-Z][\w-]*(=.*)?\]?", word)}
        given = {word.strip("[]") for word in given}
        subcommand = words[0] if module in SUBCOMMANDS and words and re.fullmatch(r"[a-z-]+", words[0]) else None
        if not given or (module in SUBCOMMANDS and subcommand is None):
            continue
        unknown = given - options_of(module, subcommand)
        wrong += [f"{document}: python -m {module} {subcommand or ''} has no {option}" for option in sorted(unknown)]
    assert not wrong, "\n".join(wrong)
