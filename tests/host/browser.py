"""ComfyUI's real page in Chromium."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from comfy_host import ROOT, Comfy
from PIL import Image
from tiny import randomize, tiny_kolors_config, write_base

from tadisr import TADiSR
from tadisr.checkpoints import adapter
from tadisr.checkpoints.base_model import load_base
from tadisr.config import LoRAConfig
from tadisr.model.lora import add_lora

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
BANNERS = (
    "for (const k of ['comfy.vueNodesMigration.dismissed', 'vueNodesBannerDismissed']) localStorage.setItem(k, 'true');"
)
READY = "() => window.app?.graph && window.LiteGraph?.registered_node_types?.TADiSRUpscale"
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.VueNodes.Enabled": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,  # it would lie over the page
}  # fmt: skip


def server(base: Path, *, settings: dict | None = None, arguments: tuple[str, ...] = ()) -> Comfy:
    """A ComfyUI to be started on a new folder, with the sample among its inputs."""
    (base / "user" / "default").mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS | (settings or {})))
    (base / "input" / "pictures").mkdir(parents=True)
    shutil.copy(ROOT / "sample" / "sample.png", base / "input" / "sample.png")
    shutil.copy(ROOT / "sample" / "sample.png", base / "input" / "pictures" / "one.png")
    write_video(base / "input" / "sample.mp4")
    place_kolors(base / "models")
    return Comfy(base, arguments=arguments)


def write_video(path: Path, frames: int = 3) -> None:
    """A few frames of the sample, each moved a little."""
    import av

    with Image.open(ROOT / "sample" / "sample.png") as sample, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            frame = sample.convert("RGB").crop((110 + 2 * i, 100, 206 + 2 * i, 164))
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def place_kolors(models: Path) -> None:
    """Kolors' files at tiny widths, with random weights, where the template of that name looks for them."""
    torch.manual_seed(3)
    folder = write_base(models / "diffusers" / "Kolors", TADiSR(tiny_kolors_config()))
    model = load_base(folder, tiny_kolors_config())
    add_lora(model, LoRAConfig())
    adapter.save_checkpoint(randomize(model), models / "tadisr" / "tadisr_kolors.safetensors")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Only one at a time, and no asyncio beside it: Playwright's own loop runs in this thread meanwhile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def open_page(comfy: Comfy, browser: Any) -> Any:
    """The page, its nodes registered."""
    page = browser.new_page(viewport={"width": 1600, "height": 960})
    page.add_init_script(BANNERS)
    page.goto(comfy.url, wait_until="domcontentloaded")
    page.wait_for_function(READY, timeout=90_000)
    time.sleep(2)
    return page


def wait_for_prompt(comfy: Comfy, page: Any, *, seconds: float = 300) -> dict[str, Any]:
    """Press Run and wait for the end; what the history says of it."""
    before = set(comfy.get("/history"))
    page.evaluate("async () => { await app.queuePrompt(0) }")
    begun = time.monotonic()
    while not (new := set(comfy.get("/history")) - before):
        if time.monotonic() - begun > seconds:
            raise TimeoutError(comfy.tail())
        time.sleep(0.3)
    (done,) = (comfy.get("/history")[key] for key in new)
    return done
