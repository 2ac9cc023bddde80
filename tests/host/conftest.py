"""One real ComfyUI for all host tests, the pack linked into its custom nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import server
from comfy_host import ROOT, Comfy


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    with server(tmp_path_factory.mktemp("comfy")) as started:
        yield started


@pytest.fixture
def prompt() -> dict:
    return json.loads((ROOT / "workflows" / "api" / "upscale.json").read_text())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)
