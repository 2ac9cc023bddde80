"""The main job, once: a shipped image through a real ComfyUI with the shipped workflow and weights.

    python sample/demo.py OUT        # `make demo` does all set-up first

Writes OUT/lr.png, sr.png, mask.png and side_by_side.png, and prints what OCR reads before and after.
$COMFYUI_DIR names a ComfyUI of your own to use ($COMFYUI_PYTHON the Python that runs it).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from PIL import Image
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "host")]

from comfy_host import Comfy, Result  # noqa: E402

from tadisr.errors import TADiSRError  # noqa: E402
from tadisr.images import read_image  # noqa: E402
from tadisr.ocr import open_reader  # noqa: E402

SAMPLE = ROOT / "sample" / "sample.png"
WORKFLOW = ROOT / "workflows" / "api" / "upscale.json"


def upscale(comfy: Comfy) -> Result:
    """The workflow as it ships, its progress shown."""
    shutil.copy(SAMPLE, comfy.base / "input" / "sample.png")
    prompt = json.loads(WORKFLOW.read_text("utf-8"))
    with tqdm(desc="upscaling", unit="tile") as bar:

        def show(kind: str, data: dict[str, int]) -> None:
            if kind == "progress":
                bar.total = data["max"]
                bar.update(data["value"] - bar.n)

        result = comfy.run(prompt, on_event=show)
    if result.last != "execution_success":
        sys.exit(f"The workflow failed: {result.error or result.body}\n{comfy.tail()}")
    return result


def side_by_side(lr: Path, sr: Path, mask: Path, out: Path) -> None:
    """The input brought to the result's size by plain bicubic, the result, the mask; and below a part of them larger."""
    large = Image.open(sr).convert("RGB")
    pictures = [Image.open(lr).convert("RGB").resize(large.size, Image.Resampling.BICUBIC), large]
    pictures.append(Image.open(mask).convert("RGB"))
    width, height = large.size[0] * 2 // 3, large.size[1] * 2 // 3
    box = (60, 380, 60 + width * 3 // 5, 380 + height * 3 // 5)
    sheet = Image.new("RGB", (width * 3 + 16, height * 2 + 8), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (i * (width + 8), 0))
        sheet.paste(picture.crop(box).resize((width, height), Image.Resampling.LANCZOS), (i * (width + 8), height + 8))
    sheet.save(out)


def read_aloud(lr: Path, sr: Path) -> None:
    """What OCR makes of the input as it is, and of the result."""
    try:
        ocr = open_reader()
    except TADiSRError as error:
        print(f"(no OCR lines: {error})")
        return
    for title, path in (("before", lr), ("after", sr)):
        print(f"OCR {title}:")
        for line in ocr.read(read_image(path)[:, :3]):
            print(f"  {line.score:.2f}  {line.text}")


def main() -> None:
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "demo").resolve()
    out.mkdir(parents=True, exist_ok=True)
    print("starting ComfyUI")
    with Comfy(ROOT / ".host" / "base") as comfy:
        result = upscale(comfy)
        (sr,), (mask,) = (result.images(node) for node in ("4", "6"))
        shutil.copy(comfy.output(sr), out / "sr.png")
        shutil.copy(comfy.output(mask), out / "mask.png")
    shutil.copy(SAMPLE, out / "lr.png")
    side_by_side(out / "lr.png", out / "sr.png", out / "mask.png", out / "side_by_side.png")
    read_aloud(out / "lr.png", out / "sr.png")
    for name in ("lr.png", "sr.png", "mask.png", "side_by_side.png"):
        print(out / name)


if __name__ == "__main__":
    main()
