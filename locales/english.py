"""The English names and tooltips, as the nodes have them: `python locales/english.py`. A test holds the file to the nodes.

Needs what the host tests need: `make host`. The other languages are written by hand, with the same keys.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "locales" / "en" / "nodeDefs.json"


def texts(info: dict[str, Any]) -> dict[str, Any]:
    """A node of /object_info in the form of ComfyUI's nodeDefs.json: inputs by id, outputs by number."""
    inputs = {name: spec for kind in ("required", "optional") for name, spec in info["input"].get(kind, {}).items()}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": name, "tooltip": spec[1]["tooltip"]} for name, spec in inputs.items()},
        "outputs": {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in enumerate(outputs)},
    }


def of_pack(object_info: dict[str, Any]) -> dict[str, Any]:
    return {name: texts(info) for name, info in sorted(object_info.items()) if name.startswith("TADiSR")}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests" / "host"))
    from comfy_host import Comfy

    with Comfy(Path(tempfile.mkdtemp())) as comfy:
        found = of_pack(comfy.get("/object_info"))
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
