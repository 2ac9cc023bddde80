"""Who may import whom: downwards only, without circles, and ComfyUI only in the nodes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

COMFY = {"comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "execution"}
HEAVY = {
    "peft", "accelerate", "kornia", "lpips", "cv2", "scipy", "tensorboard", "rapidocr", "paddleocr", "transformers",
}  # fmt: skip
# From the bottom up. A module or package may import from lines above its own, and from itself.
LAYERS = {
    "tadisr": [
        ["errors", "atomic_write", "allocator", "console", "file_digest", "out_of_memory"],
        ["validation"],
        ["base_arguments", "safetensors_file"],
        ["config"],
        ["presets", "prompt", "images"],
        ["model", "ocr", "composite"],
        ["checkpoints", "devices"],
        ["text_encoders", "profiling", "inference"],
        ["visualization"],
        ["files"],
        ["client", "cli"],
        ["__init__", "__main__"],
    ],
    "train": [
        ["__init__", "config", "command_errors", "pages", "psnr", "run_files", "run_lock"],
        ["data", "losses"],
        ["segmentation"],
        ["loop", "evaluation", "synthesis"],
        ["benchmarks", "evaluate", "fit", "grow", "memory", "report", "ship"],
        ["plan"],
    ],
    "nodes": [["host"], ["folder", "load", "prompt", "stages", "text", "upscale"], ["__init__"]],
}
FILES = {path: path.relative_to(ROOT).with_suffix("").parts for top in LAYERS for path in (ROOT / top).rglob("*.py")}
MODULES = {".".join(parts).removesuffix(".__init__"): path for path, parts in FILES.items()}


def imported_names(path: Path, *, top_level_only: bool = False) -> Iterator[str]:
    """Yield the absolute names that a file imports, relative levels resolved against the repository.

    `from .a import b` gives package.a.b where that is a module, else package.a.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = path.relative_to(ROOT).parent.parts
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            assert node.level <= len(package) + 1, f"{path}:{node.lineno} imports from above the repository"
            name = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{name}.{alias.name}" if f"{name}.{alias.name}" in MODULES else name


def place(module: str) -> tuple[str, str]:
    """Split a module's name into its top package and the part of it that LAYERS names."""
    top, _, rest = module.partition(".")
    return top, rest.split(".")[0] or "__init__"


def layer_of(module: str) -> int:
    top, part = place(module)
    found = [i for i, parts in enumerate(LAYERS[top]) if part in parts]
    assert found, f"{module} has no layer: add it to LAYERS"
    return found[0]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_point_downwards(module: str) -> None:
    top, part = place(module)
    may = {"tadisr": {"tadisr"}, "train": {"train", "tadisr"}, "nodes": {"nodes", "tadisr"}}[top]
    for name in imported_names(MODULES[module]):
        other = name.split(".")[0]
        if other in COMFY:
            assert top == "nodes", f"{module} imports {name}"
        if other not in LAYERS:
            continue
        assert other in may, f"{module} imports {name}"
        assert not (top == "train" and name.startswith("tadisr.cli")), f"{module} imports {name}"
        assert name in MODULES, f"{module} imports {name}, which does not exist"
        if other == top and place(name)[1] != part:
            assert layer_of(name) < layer_of(module), f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("train")], ids=str)
def test_library_and_nodes_use_relative_imports(module: str) -> None:
    """ComfyUI loads the pack under another name, so that an absolute import would find another copy, or none."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & set(LAYERS)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is not None and node.module.split(".")[0] not in LAYERS


def test_there_are_no_import_circles() -> None:
    """Imports inside functions count too."""
    graph = {module: {n for n in imported_names(path) if n in MODULES} for module, path in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module] - {module}):
                visit(other, (*trail, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_relative_levels_are_resolved() -> None:
    """`..train` from a nested package and `from . import x` are seen for what they are."""
    file = ROOT / "tadisr" / "inference" / "staged.py"
    assert "tadisr.config" in set(imported_names(file)) and "tadisr.inference.upscale" in set(imported_names(file))
    assert "tadisr.checkpoints.adapter" in set(imported_names(ROOT / "nodes" / "host" / "model_management.py"))


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("tadisr")], ids=str)
def test_heavy_packages_are_imported_where_used(module: str) -> None:
    assert not {n.split(".")[0] for n in imported_names(MODULES[module], top_level_only=True)} & HEAVY


def test_the_entry_point_imports_nothing_until_it_is_asked() -> None:
    assert not list(imported_names(ROOT / "__init__.py", top_level_only=True))


def test_importing_the_library_is_light() -> None:
    code = "import tadisr, sys, json; print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(json.loads(done.stdout)) & (HEAVY | {"diffusers", "torchvision"})
