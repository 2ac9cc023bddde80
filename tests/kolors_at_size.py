"""Kolors at its real size, of random numbers: `python tests/kolors_at_size.py FOLDER` builds, loads by every route, deletes.

Writes 10.7 GB: the published folder (fp16 variant alone) and ComfyUI's single files. Each route runs in a process of its
own and reports its seconds and the most memory it held, of which the file's mapped pages are a part.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tadisr import preset  # noqa: E402
from tadisr.kolors.base import build_part, load_part  # noqa: E402
from tadisr.kolors.names import unet_names, vae_names  # noqa: E402
from tadisr.precision import DTYPES, FP8  # noqa: E402
from tadisr.table import find_table  # noqa: E402

NAMES = {"unet": unet_names, "vae": vae_names}
VARIANT = "diffusion_pytorch_model.fp16.safetensors"
ROUTES = [
    ("kolors", "fp16"), ("kolors", "bf16"), ("kolors", "fp8"), ("single", "fp16"), ("single", "fp8"),
]  # fmt: skip


def write(folder: Path) -> None:
    """Both layouts. Every tensor is the beginning of one block of numbers: what they are costs no time to load."""
    config = preset("kolors")
    block = torch.randn(2**25).mul_(0.02).half().numpy()
    for part in config.parts:
        shapes = {name: tensor.shape for name, tensor in build_part(config, part).state_dict().items()}
        names = NAMES[part](shapes, getattr(config, part))
        stream(folder / "kolors" / part / VARIANT, shapes, block)
        stream(folder / "single" / f"{part}.safetensors", {names[name]: shape for name, shape in shapes.items()}, block)


def stream(path: Path, shapes: dict[str, torch.Size], block: np.ndarray) -> None:
    """A safetensors file written tensor by tensor, so that no more than the block is held."""
    header, end = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [end, end + 2 * shape.numel()]}
        end += 2 * shape.numel()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            file.write(memoryview(block[: shape.numel()]))


def peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def measure(folder: Path, route: str, kind: str) -> None:
    """One route, in this process: the U-Net and the VAE, every page of them touched once."""
    config, dtype, before = preset("kolors"), DTYPES[kind], peak()
    compute = torch.bfloat16 if dtype == FP8 else dtype
    begun, held, modules = time.perf_counter(), 0, []
    for part in config.parts:
        source = folder / "kolors" if route == "kolors" else folder / "single" / f"{part}.safetensors"
        module, _ = load_part(
            config,
            part,
            find_table(source, part, dtype=dtype),
            dtype=compute if part == "vae" else dtype,
            compute=compute,
        )
        modules.append(module)
    loaded = time.perf_counter() - begun
    for module in modules:
        for tensor in module.state_dict().values():
            held += tensor.nbytes
            tensor.flatten().view(torch.uint8)[::4096].sum()
    done = time.perf_counter() - begun
    print(json.dumps({
        "route": route, "dtype": kind, "seconds": round(loaded, 1), "with_every_page": round(done, 1),
        "weights": held, "grown": peak() - before, "ratio": round((peak() - before) / held, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(Path(sys.argv[1]), *sys.argv[2:])
    else:
        base = Path(sys.argv[1]) / "kolors_at_size"
        try:
            write(base)
            for route in ROUTES:
                subprocess.run([sys.executable, __file__, str(base), *route], check=True)
        finally:
            shutil.rmtree(base, ignore_errors=True)
