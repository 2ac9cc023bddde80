"""Every template in ComfyUI's real page, in Chromium: load it, compare it with its API twin, run it, look at it.

With the front end that this ComfyUI asks for, and with the newest one, its Vue nodes and Chinese switched on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, chromium, open_page, server, wait_for_prompt
from comfy_host import ROOT, Comfy
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright: pip install -e '.[dev]'")

OUT = ROOT / "tests" / "out"
TITLES: dict[str, str] = json.loads((ROOT / "workflows" / "notes" / "titles.json").read_text("utf-8"))
TEMPLATES = list(TITLES)
SAVED = sorted(path.stem for path in (Path(__file__).parent / "saved").glob("*.json"))
NEED_A_MODEL = {"after_text_to_image", "text_over_esrgan"}  # that does not come with the pack
SLOW = {"kolors"}  # Kolors' VAE at every pixel, even at tiny widths
BLUEPRINT = "TADiSR Stages"
NEWEST = ROOT / ".host" / "front_end"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(comfy: Comfy, browser: Any) -> Any:
    return open_page(comfy, browser)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[tuple[Comfy, Any]]:
    """The newest front end, as a user in China who has its Vue nodes on."""
    if not NEWEST.is_dir():
        pytest.fail("There is no newest front end in .host/: run `make host`.")
    settings = {"Comfy.VueNodes.Enabled": True, "Comfy.Locale": "zh"}
    arguments = ("--front-end-root", str(NEWEST))
    with server(tmp_path_factory.mktemp("newest"), settings=settings, arguments=arguments) as comfy:
        yield comfy, open_page(comfy, browser)


def read(*parts: str) -> Any:
    return json.loads(ROOT.joinpath(*parts).read_text())


def template(name: str) -> Any:
    return read("example_workflows", f"{TITLES[name]}.json")


def load(page: Any, workflow: dict[str, Any]) -> dict[str, Any]:
    """Open a workflow in the page; what the page would post of it."""
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow) }", workflow)
    output = page.evaluate("async () => (await app.graphToPrompt()).output")
    drawn = {key: {"class_type": n["class_type"], "inputs": n["inputs"]} for key, n in output.items()}
    for shown in drawn.values():
        if shown["class_type"] == "PreviewAny":
            shown["inputs"].pop("preview", None)  # what some front ends add to show the text in
    return drawn


def run(comfy: Comfy, page: Any) -> dict[str, Any]:
    done = wait_for_prompt(comfy, page)
    assert done["status"]["status_str"] == "success", done["status"]
    return done["outputs"]


def test_every_template_has_its_twin_and_its_thumbnail() -> None:
    assert len(TEMPLATES) >= 10

    def names(folder: str, kind: str) -> set[str]:
        return {path.stem for path in (ROOT / folder).glob(f"*.{kind}")}

    assert names("workflows/api", "json") == {*TEMPLATES, "upscale"}  # for scripts, which also want the mask
    assert names("workflows/notes", "md") == names("docs/templates", "jpg") == set(TEMPLATES)
    assert names("example_workflows", "json") == names("example_workflows", "jpg") == set(TITLES.values())
    assert [int(title[:2]) for title in TITLES.values()] == list(range(1, len(TITLES) + 1))
    assert not names("workflows", "json"), "the page would list them beside example_workflows"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_with_all_of_it_in_view(name: str) -> None:
    """On a page of 1600 x 960, as its screenshot is. It was saved with the view of another template."""
    workflow = template(name)
    view = workflow["extra"]["ds"]
    assert view["scale"] >= 0.6, "the canvas of 1.32.9 hides the labels"
    for node in workflow["nodes"]:
        for axis, width in enumerate((1600, 960)):
            start = (node["pos"][axis] + view["offset"][axis]) * view["scale"]
            assert start >= 0 and start + node["size"][axis] * view["scale"] <= width, (node["type"], start)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TEMPLATES])
def test_a_template_is_its_api_twin_and_runs(comfy: Comfy, page: Any, name: str) -> None:
    assert load(page, template(name)) == read("workflows", "api", f"{name}.json")
    known = page.evaluate("() => app.graph._nodes.every(n => n.type in LiteGraph.registered_node_types)")
    assert known and "Invalid workflow" not in page.inner_text("body")
    assert page.evaluate(
        "() => app.graph._nodes.some(n => n.type === 'MarkdownNote' && n.widgets[0].value.length > 80)"
    )
    if name in NEED_A_MODEL:
        return
    run(comfy, page)
    # A node fetches its images when it is drawn: bring all of them into sight.
    page.evaluate(
        "() => { app.canvas.ds.scale = 0.3; app.canvas.ds.offset = [300, 300]; app.canvas.setDirty(true, true) }"
    )
    if name == "video":
        return
    kinds = "['SaveImage', 'PreviewImage', 'MaskPreview', 'PreviewAny']"
    page.wait_for_function(
        f"() => {{ const shown = app.graph._nodes.filter(n => {kinds}.includes(n.type));"
        "  const drawn = (n) => n.imgs?.length === 1 && n.imgs[0].complete;"
        "  const told = (n) => n.type === 'PreviewAny' && n.widgets?.some(w => `${w.value}`.length > 5);"
        "  return shown.length && shown.every(n => drawn(n) || told(n)) }",
        timeout=30_000,
    )
    OUT.mkdir(exist_ok=True)
    page.screenshot(path=str(OUT / f"{name}.png"))


def test_a_workflow_saved_with_the_first_nodes_still_runs(comfy: Comfy, page: Any) -> None:
    """`saved/first_light.json` is the template of the first release, before the loader and the upscaler got more inputs."""
    drawn = load(page, json.loads((Path(__file__).parent / "saved" / "first_light.json").read_text()))
    assert drawn["2"]["inputs"] == {"model": "compact (built in)", "dtype": "auto", "base": "none"}
    assert drawn["3"]["inputs"] == {
        "image": ["1", 0], "model": ["2", 0],
        "scale": 4, "tile": 768, "overlap": 256, "tile_batch": 1, "color": "off", "fidelity": 0,
        "detail": 0.7, "text_guard": "off", "resize_to": "scale", "target_size": 2048,
    }  # fmt: skip
    assert run(comfy, page)["4"]["images"]


@pytest.mark.parametrize("name", SAVED)
def test_a_workflow_saved_with_earlier_nodes_still_opens(page: Any, name: str) -> None:
    """Every template of earlier versions: all nodes known, every link kept, values at the inputs that they were saved for."""
    workflow = read("tests", "host", "saved", f"{name}.json")
    drawn = load(page, workflow)
    assert page.evaluate("() => app.graph._nodes.every(n => n.type in LiteGraph.registered_node_types)")
    links = sum(isinstance(value, list) for node in drawn.values() for value in node["inputs"].values())
    assert links == len(workflow["links"])
    for node in drawn.values():
        if node["class_type"] == "TADiSRUpscale":
            values = node["inputs"]
            assert (values["tile"], values["overlap"], values["tile_batch"], values["fidelity"]) == (768, 256, 1, 0)
            assert values["color"] in ("off", "wavelet") and 0 <= values["detail"] <= 1


def test_tile_settings_are_grey_while_a_tiling_replaces_them(page: Any) -> None:
    grey = """() => Object.fromEntries(app.graph._nodes.find(n => n.type === 'TADiSRUpscale')
      .widgets.map(w => [w.name, Boolean(w.disabled)]))"""
    load(page, template("upscale_preview"))
    assert not any(page.evaluate(grey).values())
    load(page, template("big_picture"))
    assert {name for name, disabled in page.evaluate(grey).items() if disabled} == {"tile", "overlap", "tile_batch"}
    page.evaluate(
        "() => { const n = app.graph._nodes.find(n => n.type === 'TADiSRUpscale');"
        " n.disconnectInput(n.inputs.findIndex(i => i.name === 'tiling')) }"
    )
    assert not any(page.evaluate(grey).values())


def test_a_bypassed_upscaler_lets_the_image_through(comfy: Comfy, page: Any) -> None:
    load(page, template("upscale_preview"))
    page.evaluate("() => { app.graph._nodes.find(n => n.type === 'TADiSRUpscale').mode = 4 }")
    (image,) = wait_for_prompt(comfy, page)["outputs"]["4"]["images"]
    assert Image.open(comfy.output(image)).size == (320, 240)


def test_a_missing_model_is_offered_for_download() -> None:
    for name in NEED_A_MODEL:
        models = [m for node in template(name)["nodes"] for m in node["properties"].get("models", [])]
        assert models and all(
            m["url"].startswith("https://") and m["name"] in m["url"] and m["directory"] for m in models
        )


def test_a_saved_image_dropped_onto_the_page_brings_its_workflow(comfy: Comfy, page: Any) -> None:
    twin = read("workflows", "api", "upscale_preview.json")
    load(page, template("upscale_preview"))
    (picture,) = run(comfy, page)["4"]["images"]
    page.evaluate("() => app.graph.clear()")
    page.evaluate(
        """async (address) => {
          const file = new File([await (await fetch(address)).blob()], 'saved.png', { type: 'image/png' });
          const carried = new DataTransfer();
          carried.items.add(file);
          const at = { clientX: 700, clientY: 500, bubbles: true, cancelable: true };
          document.querySelector('#graph-canvas').dispatchEvent(new DragEvent('drop', { ...at, dataTransfer: carried }));
        }""",
        f"{comfy.url}/api/view?filename={picture['filename']}&type=output",
    )
    page.wait_for_function(f"() => app.graph._nodes.length === {len(twin) + 1}")  # the note is not in the twin
    assert page.evaluate("() => app.graph._nodes.some(n => n.type === 'TADiSRUpscale')")


# An image before the one node that is there, its results behind it; only what has no default is connected.
SURROUND = """() => {
  const [chain] = app.graph._nodes;
  const add = (type) => { const n = LiteGraph.createNode(type); app.graph.add(n); return n };
  const image = add('LoadImage'), model = add('TADiSRLoader');
  image.widgets[0].value = 'sample.png';
  const slot = (slots, name) => slots.findIndex((s) => s.name === name);
  image.connect(0, chain, slot(chain.inputs, 'image'));
  model.connect(0, chain, slot(chain.inputs, 'model'));
  for (const [output, kind] of [['image', 'SaveImage'], ['heat map', 'PreviewImage'], ['mask', 'MaskPreview']])
    chain.connect(slot(chain.outputs, output), add(kind), 0);
  return [chain.title, chain.inputs.map((s) => s.name), chain.widgets.map((w) => w.name)];
}"""


def place(page: Any, name: str) -> None:
    """A node as a user places it: a double click on the canvas, its name, Enter."""
    page.keyboard.press("Escape")
    page.mouse.dblclick(800, 700)
    page.wait_for_timeout(1000)
    page.keyboard.type(name, delay=20)
    page.wait_for_timeout(2500)  # the list settles on its first entry
    page.keyboard.press("Enter")
    page.wait_for_timeout(1000)
    page.mouse.click(500, 500)  # the newest page hands the node over on a click
    page.wait_for_timeout(1000)


@pytest.mark.parametrize("front_end", ["page", "new"])
def test_the_blueprint_is_found_by_name_and_runs(request: pytest.FixtureRequest, front_end: str) -> None:
    if front_end == "page":
        comfy, page = request.getfixturevalue("comfy"), request.getfixturevalue("page")
    else:
        comfy, page = request.getfixturevalue("new")
    assert [entry["name"] for entry in comfy.get("/global_subgraphs").values()] == [BLUEPRINT]
    page.evaluate("() => app.graph.clear()")
    for _ in range(4):  # a slow page may lose a click or a key
        place(page, BLUEPRINT)
        if page.evaluate("() => app.graph._nodes.length") == 1:
            break
    title, inputs, widgets = page.evaluate(SURROUND)
    assert title == BLUEPRINT and {"image", "model", "mask", "scale"} <= set(inputs) and "scale" in widgets
    outputs = run(comfy, page)
    assert len(outputs) == 3 and all(shown["images"] for shown in outputs.values())


def test_the_newest_page_reads_every_template(new: tuple[Comfy, Any]) -> None:
    _, page = new
    for name in TEMPLATES:
        assert load(page, template(name)) == read("workflows", "api", f"{name}.json"), name
        assert page.evaluate("() => app.graph._nodes.every(n => n.type in LiteGraph.registered_node_types)"), name


def test_the_newest_page_runs_and_shows_the_result(new: tuple[Comfy, Any]) -> None:
    comfy, page = new
    load(page, template("upscale_preview"))
    run(comfy, page)
    page.evaluate(
        "() => { app.canvas.ds.scale = 0.6; app.canvas.ds.offset = [100, 100]; app.canvas.setDirty(true, true) }"
    )
    page.wait_for_function(
        "() => ['TADiSR', 'temp'].every(kind => [...document.querySelectorAll('[data-node-id] img')]"
        ".some(i => i.src.includes(kind) && i.naturalWidth))",
        timeout=30_000,
    )
    page.screenshot(path=str(OUT / "newest.png"))


def test_a_chinese_page_speaks_chinese(new: tuple[Comfy, Any]) -> None:
    """Names, tooltips and help; not with 1.32.9, which lets its own words overwrite a pack's in all languages but English."""
    _, page = new
    load(page, template("stages"))
    words = read("locales", "zh", "nodeDefs.json")
    shown = page.evaluate(
        "() => app.graph._nodes.filter(n => n.type.startsWith('TADiSR'))"
        ".map(n => [n.type, n.title, n.inputs.map(i => [i.name, i.label ?? i.localized_name])])"
    )
    assert len(shown) == 5
    for kind, title, inputs in shown:
        assert title == words[kind]["display_name"]
        for name, label in inputs:
            assert label == words[kind]["inputs"][name]["name"]


@pytest.mark.parametrize("front_end", ["asked for", "newest"])
def test_markup_in_names_of_files_runs_nothing(front_end: str, request: pytest.FixtureRequest) -> None:
    """What a node tells of files is shown as HTML by the page: by the line on the node, and by Preview as Text."""
    if front_end == "newest":
        comfy, page = request.getfixturevalue("new")
    else:
        comfy, page = request.getfixturevalue("comfy"), request.getfixturevalue("page")
    folder = comfy.base / "input" / "marked"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (12, 8)).save(folder / "good.png")
    name = "<img src=x onerror=window.hit=1>"
    (folder / f"{name}.png").write_bytes(b"broken")
    (folder / f"{name}.txt").write_bytes(b"left out")
    workflow = template("folder_batch")
    node = next(node for node in workflow["nodes"] if node["type"] == "TADiSRUpscaleFolder")
    node["widgets_values"][0] = "marked"
    load(page, workflow)
    outputs = run(comfy, page)
    assert any(name in text for found in outputs.values() for text in found.get("text", [])), outputs
    page.evaluate(
        "() => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [200, 200]; app.canvas.setDirty(true, true) }"
    )
    page.wait_for_timeout(2000)
    assert page.evaluate("window.hit") is None
    assert page.evaluate("document.querySelectorAll('img[src=x]').length") == 0
