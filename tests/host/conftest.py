"""One real ComfyUI for all host tests, the pack linked into its custom nodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import SETTINGS
from comfy_host import ROOT, Comfy, location


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    if not location()[0].is_dir():
        pytest.fail("There is no ComfyUI in .host/: run `make host`, or set COMFYUI_DIR.")
    base = tmp_path_factory.mktemp("comfy")
    (base / "user" / "default").mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    (base / "input").mkdir()
    shutil.copy(ROOT / "sample" / "sample.png", base / "input" / "sample.png")
    with Comfy(base) as server:
        yield server


@pytest.fixture
def prompt() -> dict:
    return json.loads((ROOT / "workflows" / "api" / "upscale.json").read_text())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)
