"""What the repository promises outside its code: dependencies, registry metadata, no machine paths."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


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
    for name, shape in (("Icon", (1, 1)), ("Banner", (7, 3))):
        prefix = project["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
        assert comfy[name].startswith(prefix)
        with Image.open(ROOT / comfy[name].removeprefix(prefix)) as image:
            assert image.width * shape[1] == image.height * shape[0]
    import tadisr

    assert project["version"] == tadisr.__version__


def test_what_the_registry_ships_is_the_pack_without_training_and_tests() -> None:
    """`.comfyignore` leaves every file that ComfyUI reads: nodes, library, weights, templates, pages, words."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-ci", "--exclude-from=.comfyignore"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    ignored = set(listed.stdout.split("\0"))
    tracked = set(
        subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT).stdout.split("\0")
    )
    assert ignored >= {name for name in tracked if name.startswith(("tests/", "train/"))}
    needed = ("nodes/", "tadisr/", "example_workflows/", "subgraphs/", "web/docs/", "web/js/", "locales/en/")
    kept = {name for name in tracked if name.startswith(needed)} | {
        "__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "sample/sample.png",
        "workflows/api/upscale.json",
    }  # fmt: skip
    assert not ignored & kept and kept <= tracked


def test_no_machine_speaks_in_the_repository() -> None:
    """No absolute path of a developer's machine in what is tracked."""
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT).stdout.splitlines()
    for name in files:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".txt"} and path.name != "test_repository.py":
            text = path.read_text()
            assert not re.search(r"(?<![\w.-])/(work|root|home)/", text), name  # absolute ones only


def test_links_between_documents_lead_somewhere() -> None:
    """README, CONTRIBUTING and docs; the help pages in web/ are served by ComfyUI from other places."""
    broken = []
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert not broken


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_names_and_docstrings_reach_their_aims() -> None:
    command = [sys.executable, "tests/measure/names_and_docstrings.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
