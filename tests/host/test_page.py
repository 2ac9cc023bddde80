"""Every template in ComfyUI's real page, in Chromium: load it, compare it with its API twin, run it, look at it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from browser import CHROMIUM, open_page, wait_for_prompt
from comfy_host import ROOT, Comfy

pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright: pip install -e '.[dev]'")

OUT = ROOT / "tests" / "out"
TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
NEED_A_MODEL = {"after_text_to_image", "text_over_esrgan"}  # that does not come with the pack

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt install chromium")


@pytest.fixture(scope="module")
def page(comfy: Comfy) -> Iterator[Any]:
    folder = comfy.base / "input" / "pictures"
    folder.mkdir(exist_ok=True)
    shutil.copy(comfy.base / "input" / "sample.png", folder / "one.png")
    with open_page(comfy) as opened:
        yield opened


def test_every_template_has_its_twin_and_its_thumbnail() -> None:
    assert len(TEMPLATES) >= 8
    for folder, kind in (
        ("workflows/api", "json"), ("workflows/notes", "md"), ("workflows", "jpg"), ("docs/templates", "jpg"),
    ):  # fmt: skip
        assert sorted(path.stem for path in (ROOT / folder).glob(f"*.{kind}")) == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_its_api_twin_and_runs(comfy: Comfy, page: Any, name: str) -> None:
    template = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    twin = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow) }", template)
    output = page.evaluate("async () => (await app.graphToPrompt()).output")
    drawn = {key: {"class_type": n["class_type"], "inputs": n["inputs"]} for key, n in output.items()}
    for shown in drawn.values():
        if shown["class_type"] == "PreviewAny":
            shown["inputs"].pop("preview", None)  # what some front ends add to show the text in
    assert drawn == twin
    known = page.evaluate("() => app.graph._nodes.every(n => n.type in LiteGraph.registered_node_types)")
    assert known and "Invalid workflow" not in page.inner_text("body")
    assert page.evaluate(
        "() => app.graph._nodes.some(n => n.type === 'MarkdownNote' && n.widgets[0].value.length > 80)"
    )
    if name in NEED_A_MODEL:
        return
    done = wait_for_prompt(comfy, page)
    assert done["status"]["status_str"] == "success", done["status"]
    # A node fetches its pictures when it is drawn: bring all of them into sight.
    page.evaluate(
        "() => { app.canvas.ds.scale = 0.3; app.canvas.ds.offset = [300, 300]; app.canvas.setDirty(true, true) }"
    )
    kinds = "['SaveImage', 'PreviewImage', 'MaskPreview']"
    page.wait_for_function(
        f"() => {{ const shown = app.graph._nodes.filter(n => {kinds}.includes(n.type));"
        "  return shown.length && shown.every(n => n.imgs?.length === 1 && n.imgs[0].complete) }",
        timeout=30_000,
    )
    OUT.mkdir(exist_ok=True)
    page.screenshot(path=str(OUT / f"{name}.png"))
