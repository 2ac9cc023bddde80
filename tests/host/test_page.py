"""The template in ComfyUI's real page, in Chromium: load it, queue it, look at it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_host import ROOT, Comfy

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the page's tests need playwright: pip install -e '.[dev]'"
)

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
OUT = ROOT / "tests" / "out"
BANNERS = (
    "for (const k of ['comfy.vueNodesMigration.dismissed', 'vueNodesBannerDismissed']) localStorage.setItem(k, 'true');"
)
READY = "() => window.app?.graph && window.LiteGraph?.registered_node_types?.TADiSRUpscale"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt install chromium")


@pytest.fixture
def page(comfy: Comfy) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1600, "height": 960})
        page.add_init_script(BANNERS)
        page.goto(comfy.url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=90_000)
        time.sleep(2)
        yield page
        browser.close()


def test_the_template_is_the_api_workflow_and_runs(comfy: Comfy, page: Any, prompt: dict[str, Any]) -> None:
    template = json.loads((ROOT / "workflows" / "upscale.json").read_text())
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow) }", template)
    output = page.evaluate("async () => (await app.graphToPrompt()).output")
    drawn = {key: {"class_type": n["class_type"], "inputs": n["inputs"]} for key, n in output.items()}
    assert drawn == prompt
    assert "Invalid workflow" not in page.inner_text("body")

    before = set(comfy.get("/history"))
    page.evaluate("async () => { await app.queuePrompt(0) }")
    begun = time.monotonic()
    while not (new := set(comfy.get("/history")) - before):
        assert time.monotonic() - begun < 300, comfy.tail()
        time.sleep(0.3)
    (done,) = (comfy.get("/history")[key] for key in new)
    assert done["status"]["status_str"] == "success"
    time.sleep(3)  # the page fetches the pictures
    OUT.mkdir(exist_ok=True)
    page.screenshot(path=str(OUT / "page.png"))
    shown = page.evaluate("() => app.graph._nodes.filter(n => n.type === 'SaveImage').map(n => (n.imgs || []).length)")
    assert shown == [1, 1]
