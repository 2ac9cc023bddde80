"""The boundaries of DESIGN: who may import whom, what the pack asks of the host."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
HOST = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution"}
HEAVY = {
    "peft",
    "accelerate",
    "kornia",
    "lpips",
    "cv2",
    "scipy",
    "tensorboard",
    "rapidocr",
    "paddleocr",
    "transformers",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Absolute module names a file imports; relative ones come as `.name` from the room's own parent."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def room(name: str) -> list[Path]:
    files = sorted((ROOT / name).rglob("*.py"))
    assert files
    return files


def tops(path: Path, **options: bool) -> set[str]:
    return {name.split(".")[0] for name in imports(path, **options) if not name.startswith(".")}


@pytest.mark.parametrize("path", room("tadisr"), ids=str)
def test_the_library_knows_neither_nodes_nor_training_nor_comfy(path: Path) -> None:
    assert not tops(path) & (HOST | {"nodes", "train", "tadisr"})
    depth = len(path.relative_to(ROOT / "tadisr").parts)
    assert not any(name.startswith("." * (depth + 1)) for name in imports(path))
    assert not tops(path, top_level_only=True) & HEAVY


@pytest.mark.parametrize("path", room("train"), ids=str)
def test_training_knows_neither_nodes_nor_comfy(path: Path) -> None:
    assert not tops(path) & (HOST | {"nodes"})


@pytest.mark.parametrize("path", room("nodes"), ids=str)
def test_nodes_reach_the_library_by_relative_imports(path: Path) -> None:
    assert not tops(path) & {"tadisr", "train", "nodes"}
    assert not any(name.startswith("..train") for name in imports(path))


def test_the_door_imports_nothing_until_it_is_asked() -> None:
    assert imports(ROOT / "__init__.py", top_level_only=True) == set()


def test_importing_the_library_is_light() -> None:
    code = "import tadisr, sys, json; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(json.loads(done.stdout)) & (HEAVY - {"transformers", "scipy", "peft", "accelerate"})


def test_requirements_are_the_dependencies_and_pin_nothing() -> None:
    dependencies = PROJECT["project"]["dependencies"]
    assert (ROOT / "requirements.txt").read_text().split("\n")[:-1] == dependencies
    extras = [d for extra in PROJECT["project"]["optional-dependencies"].values() for d in extra]
    for requirement in dependencies + extras:
        assert ">=" in requirement and "==" not in requirement.split(";")[0] and "<" not in requirement.split(";")[0]


def test_the_registry_would_take_the_pack() -> None:
    project, comfy = PROJECT["project"], PROJECT["tool"]["comfy"]
    assert "comfyui" not in project["name"].lower() and len(project["name"]) < 100
    assert project["urls"]["Repository"].startswith("https://github.com/")
    assert comfy["PublisherId"] and comfy["DisplayName"]
    import tadisr

    assert project["version"] == tadisr.__version__


def test_no_machine_speaks_in_the_repository() -> None:
    """No absolute path of a developer's machine in what is tracked."""
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".txt"} and path.name != "test_house.py":
            text = path.read_text()
            assert not re.search(r"(?<![\w.-])/(work|root|home)/", text), name  # absolute ones only
