"""Draw every template from its API twin, in ComfyUI's own page: `python workflows/draw.py [NAME ...]`.

workflows/api/NAME.json is what a template is, workflows/notes/NAME.md its note; this gives it its place on the page, its
thumbnail NAME.jpg and a screenshot docs/templates/NAME.jpg, with results where it runs without models to download.
Needs what the tests of the page need: `make host`, playwright and Chromium.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "host"), str(ROOT / "tests")]

from browser import SETTINGS, open_page, wait_for_prompt  # noqa: E402
from comfy_host import Comfy  # noqa: E402

SHOTS = ROOT / "docs" / "templates"
ABSENT = ("after_text_to_image", "text_over_esrgan")  # need a model that does not come with the pack

# Columns by distance from the sources; within a column from top to bottom; the note under the first column.
LAYOUT = """([api, name, text]) => {
  app.loadApiJson(api, name);
  const nodes = app.graph._nodes, depth = {};
  const from = (n) => (n.inputs ?? []).map((i) => app.graph.links[i.link]?.origin_id).filter((id) => id !== undefined);
  const far = (n) => depth[n.id] ??= Math.max(-1, ...from(n).map((id) => far(app.graph.getNodeById(id)))) + 1;
  nodes.forEach(far);
  const columns = [];
  for (const n of [...nodes].sort((a, b) => Number(a.id) - Number(b.id))) (columns[depth[n.id]] ??= []).push(n);
  const shown = new Set(['LoadImage', 'SaveImage', 'PreviewImage', 'MaskPreview', 'PreviewAny']);
  let x = 40, bottom = 0;
  columns.forEach((column, c) => {
    let y = 80, wide = 0;
    for (const n of column) {
      const size = n.computeSize();
      const picture = shown.has(n.type);
      n.setSize([Math.max(size[0], picture ? 340 : 300), picture ? Math.max(size[1], 330) : size[1]]);
      n.pos = [x, y];
      y += n.size[1] + 60;
      wide = Math.max(wide, n.size[0]);
    }
    if (c === 0) bottom = y;
    x += wide + 60;
  });
  const note = LiteGraph.createNode('MarkdownNote');
  app.graph.add(note);
  note.title = 'How to use it';
  note.widgets[0].value = text;
  note.pos = [40, bottom];
  note.setSize([360, 60 + 19 * text.split('\\n').reduce((lines, l) => lines + Math.max(1, Math.ceil(l.length / 48)), 0)]);
  // As JSON: what is undefined would come over as null, which the page refuses to read.
  return JSON.stringify(app.graph.serialize());
}"""

FIT = """() => {
  const [x0, y0, x1, y1] = app.graph._nodes.reduce(([a, b, c, d], n) => [Math.min(a, n.pos[0]), Math.min(b, n.pos[1] - 30),
    Math.max(c, n.pos[0] + n.size[0]), Math.max(d, n.pos[1] + n.size[1])], [1e9, 1e9, -1e9, -1e9]);
  const s = Math.min(1500 / (x1 - x0), 860 / (y1 - y0), 1.1);
  app.canvas.ds.scale = s;
  app.canvas.ds.offset = [(1580 / s - (x1 - x0)) / 2 - x0 + 30 / s, (930 / s - (y1 - y0)) / 2 - y0 + 10 / s];
  app.canvas.setDirty(true, true);
}"""


def draw(comfy: Comfy, page: Any, name: str) -> None:
    api = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    workflow = json.loads(
        page.evaluate(LAYOUT, [api, name, (ROOT / "workflows" / "notes" / f"{name}.md").read_text().strip()])
    )
    workflow["id"] = "00000000-0000-0000-0000-000000000000"  # the page draws a new one each time
    (ROOT / "workflows" / f"{name}.json").write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n")
    page.evaluate("async (workflow) => { await app.loadGraphData(workflow) }", workflow)
    if name not in ABSENT:
        wait_for_prompt(comfy, page)
        time.sleep(3)  # the page fetches the pictures
    page.evaluate(FIT)
    time.sleep(1)
    SHOTS.mkdir(exist_ok=True)
    shot = Path(tempfile.mkdtemp()) / "shot.png"
    page.screenshot(path=str(shot))
    picture = Image.open(shot).convert("RGB")
    picture.save(SHOTS / f"{name}.jpg", quality=82, optimize=True)
    picture.crop((60, 40, 1600, 960)).resize((770, 460), Image.Resampling.LANCZOS).save(
        ROOT / "workflows" / f"{name}.jpg", quality=80, optimize=True
    )


def main(names: list[str]) -> None:
    base = Path(tempfile.mkdtemp())
    (base / "input" / "pictures").mkdir(parents=True)
    (base / "user" / "default").mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    with Image.open(ROOT / "sample" / "sample.png") as sample:
        for i, box in enumerate([(0, 0, 160, 100), (90, 90, 230, 230)]):
            sample.crop(box).save(base / "input" / "pictures" / f"{i}.png")
    shutil.copy(ROOT / "sample" / "sample.png", base / "input" / "sample.png")
    with Comfy(base) as comfy, open_page(comfy) as page:
        for name in names or sorted(path.stem for path in (ROOT / "workflows" / "api").glob("*.json")):
            draw(comfy, page, name)
            print(name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
