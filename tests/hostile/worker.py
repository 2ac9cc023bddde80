"""Feed files to the public entry points, one case a line, and report what each gave. Runs as a process of its own.

stdin: JSON lines {"kind", "path", "folder"}; stdout: one JSON line a case: outcome, message, seconds, peak bytes, and
every file opened for writing, or read outside of the case's folder, Python and the repository.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tadisr
from tadisr.errors import TADiSRError

ROOT = Path(__file__).parents[2]
ALLOWED = tuple(
    str(Path(place).resolve())
    for place in (ROOT, sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], "/proc", "/dev", "/sys")
)  # fmt: skip
LONGEST = 1000  # characters of a sentence

opened: list[str] = []
folder = ""


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note files that a case opens where it has no business."""
    if event not in ("open", "os.remove", "os.rename", "os.mkdir", "socket.connect", "subprocess.Popen", "os.system"):
        return
    if event != "open":
        opened.append(f"{event} {arguments[0]}")
        return
    path, mode, flags = arguments
    if not isinstance(path, (str, bytes)):
        return
    place = os.path.realpath(os.fsdecode(path))
    writing = (isinstance(mode, str) and set(mode) & set("wax+")) or (
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    )
    if writing or not (place.startswith(folder) or place.startswith(ALLOWED)):
        opened.append(f"{'write' if writing else 'read'} {place}")


def upscale_with(model: Any) -> str:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    result = tadisr.upscale(model, image).image
    if not result.isfinite().all():
        raise AssertionError("a non-finite image was handed out")
    return f"image of {tuple(result.shape)}"


def run_listing(path: Path) -> None:
    """What the nodes' lists ask of every file: never an exception."""
    from entry_points import list_file

    list_file(path)


def run_checkpoint(path: Path) -> str:
    run_listing(path)
    return upscale_with(tadisr.load(path))


def run_adapter(path: Path) -> str:
    run_listing(path)
    return upscale_with(tadisr.load(path, base=path.parents[1] / "base"))


def run_base(path: Path) -> str:
    run_listing(path)
    return upscale_with(
        tadisr.load(path.parents[1] / "adapter.safetensors", base=path, vae=path.parents[1] / "base" / "vae")
    )


def run_prompt(path: Path) -> str:
    from entry_points import read_prompt

    run_listing(path)
    return f"prompt of {tuple(read_prompt(path).embedding.shape)}"


def run_release(path: Path) -> str:
    from entry_points import read_release

    return f"{len(read_release(path).tensors)} tensors"


def run_image(path: Path) -> str:
    from entry_points import read_image

    image = read_image(path)
    model = tadisr.load() if "model" not in CACHE else CACHE["model"]
    CACHE["model"] = model
    return (
        upscale_with(model)
        if image.shape[2] * image.shape[3] > 64**2
        else f"{tuple(tadisr.upscale(model, image).image.shape)}"
    )


def run_yaml(path: Path) -> str:
    from entry_points import read_settings

    return read_settings(path)


CACHE: dict[str, Any] = {}
KINDS: dict[str, Callable[[Path], str]] = {
    "checkpoint": run_checkpoint, "adapter": run_adapter, "base": run_base, "prompt": run_prompt, "release": run_release,
    "image": run_image, "yaml": run_yaml,
}  # fmt: skip


def peak() -> int:
    """Bytes of the largest resident set since it was last reset."""
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def run_case(case: dict[str, str]) -> dict[str, Any]:
    global folder
    folder = os.path.realpath(case["folder"])
    opened.clear()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    opened.clear()
    begun = time.process_time()
    path = Path(case["path"])
    try:
        outcome, message = "answer", KINDS[case["kind"]](path)
    except TADiSRError as error:
        message = str(error)
        whole = (
            "\n" not in message and len(message) <= LONGEST and (path.name in message or str(path.parent) in message)
        )
        outcome = "sentence" if whole else "no sentence"
    except Exception as error:
        outcome, message = "raw", f"{type(error).__name__}: {error}\n{traceback.format_exc()[-1500:]}"
    return {
        "outcome": outcome, "message": message, "seconds": time.process_time() - begun, "peak": peak(),
        "outside": [place for place in opened if "clear_refs" not in place],
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not mix with the results
    sys.addaudithook(watch)
    for line in sys.stdin:
        print(json.dumps(run_case(json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
