"""Draw every template from its API twin, in ComfyUI's own page: `python workflows/draw.py [NAME ...]`.

workflows/api/NAME.json is what a template is, workflows/notes/NAME.md its note, notes/titles.json its title; this gives it its
place on the page, example_workflows/TITLE.json, and a screenshot docs/templates/NAME.jpg, with results where it runs without
models to download. `python workflows/thumbnails.py` draws example_workflows/TITLE.jpg.
"blueprint" for NAME draws subgraphs/TADiSR Stages.json, the staged chain as one node; "help" the pictures of those help
pages that show nodes, web/docs/pictures (web/pictures.py draws the others).
Needs what the tests of the page need: `make host`, playwright and Chromium.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "host"), str(ROOT / "tests" / "fixtures")]

from browser import chromium, open_page, server, wait_for_prompt  # noqa: E402
from comfy_host import Comfy  # noqa: E402

TITLES = json.loads((ROOT / "workflows" / "notes" / "titles.json").read_text("utf-8"))
TEMPLATES = ROOT / "example_workflows"
SHOTS = ROOT / "docs" / "templates"
BLUEPRINT = ROOT / "subgraphs" / "TADiSR Stages.json"
UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ABSENT = ("after_text_to_image", "kolors", "text_over_esrgan")  # need a model that does not come with the pack
# What the page offers to download when a template's model is missing.
MODELS = {
    "UpscaleModelLoader": [
        {
            "name": "RealESRGAN_x4plus.pth",
            "url": "https://github.com/xinntao/Real-ESRGAN/releases/download/v0.1.0/RealESRGAN_x4plus.pth",
            "directory": "upscale_models",
        }
    ],
    "CheckpointLoaderSimple": [
        {
            "name": "sd_xl_base_1.0.safetensors",
            "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
            "directory": "checkpoints",
        }
    ],
}

# Columns by distance from the sources; within a column from top to bottom, with room for the page's newer nodes, which are
# taller; the note below the first column.
LAYOUT = """([api, name, text, models]) => {
  app.loadApiJson(api, name);
  const nodes = app.graph._nodes, depth = {};
  for (const n of nodes) if (models[n.type]) n.properties.models = models[n.type];
  const from = (n) => (n.inputs ?? []).map((i) => app.graph.links[i.link]?.origin_id).filter((id) => id !== undefined);
  const far = (n) => depth[n.id] ??= Math.max(-1, ...from(n).map((id) => far(app.graph.getNodeById(id)))) + 1;
  nodes.forEach(far);
  const columns = [];
  for (const n of [...nodes].sort((a, b) => Number(a.id) - Number(b.id))) (columns[depth[n.id]] ??= []).push(n);
  const shown = new Set(['LoadImage', 'SaveImage', 'PreviewImage', 'MaskPreview', 'PreviewAny', 'LoadVideo', 'SaveVideo']);
  let x = 40, below = 80;
  columns.forEach((column, c) => {
    let y = 80, wide = 0;
    for (const n of column) {
      const size = n.computeSize();
      const picture = shown.has(n.type);
      n.setSize([Math.max(size[0], picture ? 330 : 240), picture ? Math.max(size[1], 310) : size[1]]);
      n.pos = [x, y];
      y += n.size[1] + 90 + 8 * (n.widgets?.length ?? 0) + (n.type === 'TADiSRUpscale' ? 240 : 0);  // its preview
      wide = Math.max(wide, n.size[0]);
    }
    if (c === 0) below = y;
    x += wide + 55;
  });
  if (text) {
    const note = LiteGraph.createNode('MarkdownNote');
    app.graph.add(note);
    note.title = 'How to use it';
    note.widgets[0].value = text;
    note.pos = [40, below];
    const wide = (line) => [...line].reduce((sum, c) => sum + (c > '\\u2e80' ? 2 : 1), 0);
    const lines = text.split('\\n').reduce((sum, line) => sum + Math.max(1, Math.ceil(wide(line) / 50)), 0);
    note.setSize([340, 60 + 17 * lines]);
  }
}"""

# What a node of the chain is connected to outside becomes a socket of the blueprint.
SUBGRAPH = """(name) => {
  const graph = app.graph, outside = new Set(['LoadImage', 'LoadImageMask', 'PrimitiveFloat', 'TADiSRLoader']);
  const inner = graph._nodes.filter((n) => n.type.startsWith('TADiSR') && !outside.has(n.type));
  const { subgraph, node } = graph.convertToSubgraph(new Set(inner));
  subgraph.name = node.title = name;
  for (const n of [...graph._nodes]) if (n !== node) graph.remove(n);
  graph.extra = { BlueprintDescription: 'The paper, one node for each step: encode, denoise, text attention, joint decode.' };
  return JSON.stringify(graph.serialize());
}"""

# All of it between the page's own bars.
FIT = """() => {
  const [x0, y0, x1, y1] = app.graph._nodes.reduce(([a, b, c, d], n) => [Math.min(a, n.pos[0]), Math.min(b, n.pos[1] - 30),
    Math.max(c, n.pos[0] + n.size[0]), Math.max(d, n.pos[1] + n.size[1])], [1e9, 1e9, -1e9, -1e9]);
  const s = Math.min(1480 / (x1 - x0), 790 / (y1 - y0), 1.1);
  app.canvas.low_quality_zoom_threshold = app.canvas.min_font_size_for_lod = 0;  // words also when it is small
  app.canvas.ds.scale = s;
  app.canvas.ds.offset = [80 / s + (1500 / s - (x1 - x0)) / 2 - x0, 130 / s + (800 / s - (y1 - y0)) / 2 - y0];
  app.canvas.setDirty(true, true);
}"""

# As JSON: what is undefined would come over as null, which the page refuses to read. Its view is a part of it.
SERIALIZE = f"() => {{ ({FIT})(); return JSON.stringify(app.graph.serialize()); }}"


def draw_blueprint(page: Any) -> None:
    """The staged chain with its scale and an edited mask as sockets, too."""
    api = json.loads((ROOT / "workflows" / "api" / "stages.json").read_text("utf-8"))
    api |= {
        "20": {"class_type": "PrimitiveFloat", "inputs": {"value": 4.0}},
        "21": {"class_type": "LoadImageMask", "inputs": {"image": "sample.png", "channel": "alpha"}},
    }
    api["3"]["inputs"]["scale"] = ["20", 0]
    api["6"]["inputs"]["mask"] = ["21", 0]
    page.evaluate(LAYOUT, [api, BLUEPRINT.stem, "", {}])
    drawn = json.loads(page.evaluate(SUBGRAPH, BLUEPRINT.stem))
    ids = iter(range(1000))
    known: dict[str, str] = {}  # the page draws new ids each time

    def settle(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: settle(item) for key, item in value.items()}
        if isinstance(value, list):
            return [settle(item) for item in value]
        if isinstance(value, str) and UUID.fullmatch(value):
            return known.setdefault(value, f"00000000-0000-4000-8000-{next(ids):012d}")
        return value

    BLUEPRINT.parent.mkdir(exist_ok=True)
    BLUEPRINT.write_text(json.dumps(settle(drawn), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


HELP: dict[str, dict[str, Any]] = {  # ids that no template has: the page would show that node's picture again
    "TADiSRKolorsLoader": {
        "31": {"class_type": "TADiSRKolorsLoader", "inputs": {"unet": "diffusers/Kolors", "vae": "beside the U-Net"}},
        "32": {
            "class_type": "TADiSRAdapterLoader",
            "inputs": {"base": ["31", 0], "adapter": "tadisr_kolors.safetensors", "strength": 1.0},
        },
        "33": {"class_type": "TADiSRUpscale", "inputs": {"model": ["32", 0], "scale": 4.0}},
    },
    "TADiSREncodePrompt": {
        "31": {"class_type": "TADiSREncodePrompt", "inputs": {"text_encoder": "chatglm3-fp16.safetensors"}},
        "32": {"class_type": "TADiSRDenoise", "inputs": {"prompt": ["31", 0]}},
    },
    "TADiSRLoadPrompt": {
        "31": {"class_type": "TADiSRLoadPrompt", "inputs": {"prompt_file": "kolors_text.safetensors"}},
        "32": {
            "class_type": "TADiSRAdapterLoader",
            "inputs": {"prompt": ["31", 0], "adapter": "tadisr_kolors.safetensors"},
        },
    },
}
HELP["TADiSRUpscaleFolder"] = {
    "31": {"class_type": "TADiSRLoader", "inputs": {"model": "compact (built in)"}},
    "32": {"class_type": "TADiSRUpscaleFolder", "inputs": {"model": ["31", 0], "input_folder": "pictures"}},
    "33": {"class_type": "PreviewAny", "inputs": {"source": ["32", 1]}},
}
BOUNDS = """() => {
  const corner = (x, y) => app.canvas.ds.convertOffsetToCanvas([x, y]);
  const all = app.graph._nodes.map((n) => [
    corner(n.pos[0], n.pos[1] - 40), corner(n.pos[0] + n.size[0], n.pos[1] + n.size[1]),
  ]);
  const edge = (pick, i, j) => pick(...all.map((c) => c[i][j]));
  return [edge(Math.min, 0, 0), edge(Math.min, 0, 1), edge(Math.max, 1, 0), edge(Math.max, 1, 1)];
}"""


def draw_help(page: Any) -> None:
    """Nodes as they are connected, cut out of the page."""
    for name, api in HELP.items():
        page.evaluate(LAYOUT, [api, name, "", {}])
        page.evaluate(FIT)
        time.sleep(1)
        left, top, right, bottom = page.evaluate(BOUNDS)
        box = (max(left - 16, 62), max(top - 12, 60), right + 16, bottom + 16)
        shot(page).crop(tuple(map(round, box))).save(
            ROOT / "web" / "docs" / "pictures" / f"{name}.jpg", quality=86, optimize=True
        )


def shot(page: Any) -> Image.Image:
    with tempfile.TemporaryDirectory() as folder:
        page.screenshot(path=f"{folder}/shot.png")
        return Image.open(f"{folder}/shot.png").convert("RGB")


def draw(comfy: Comfy, page: Any, name: str) -> None:
    api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))
    note = (ROOT / "workflows" / "notes" / f"{name}.md").read_text("utf-8").strip()
    page.evaluate(LAYOUT, [api, name, note, MODELS])
    workflow = json.loads(page.evaluate(SERIALIZE))
    workflow["id"] = "00000000-0000-0000-0000-000000000000"  # the page draws a new one each time
    text = json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"
    (TEMPLATES / f"{TITLES[name]}.json").write_text(text, encoding="utf-8")
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow) }", workflow)
    if name not in ABSENT:
        wait_for_prompt(comfy, page)
        time.sleep(3)  # the page fetches the pictures
    page.evaluate(FIT)
    time.sleep(1)
    SHOTS.mkdir(exist_ok=True)
    shot(page).save(SHOTS / f"{name}.jpg", quality=82, optimize=True)


def main(names: list[str]) -> None:
    base = Path(tempfile.mkdtemp())
    comfy = server(base)
    with Image.open(ROOT / "sample" / "sample.png") as sample:
        for i, box in enumerate([(0, 0, 160, 100), (90, 90, 230, 230)]):
            sample.crop(box).save(base / "input" / "pictures" / f"{i}.png")
    (base / "input" / "pictures" / "one.png").unlink()
    with comfy, chromium() as browser:
        page = open_page(comfy, browser)
        for name in names or ["blueprint", "help", *TITLES]:
            if name == "blueprint":
                draw_blueprint(page)
            elif name == "help":
                draw_help(page)
            else:
                draw(comfy, page, name)
            print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
