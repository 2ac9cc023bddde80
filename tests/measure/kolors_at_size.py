"""Kolors at its real size, of random numbers: `python tests/measure/kolors_at_size.py FOLDER` builds, loads, runs, deletes.

Writes 11.1 GB: the published folder (fp16 variant alone), ComfyUI's single files and an adapter. Each route runs in a
process of its own and reports its seconds and the most memory it held, of which the file's mapped pages are a part; then
the adapter on the folder upscales one tile of 768 x 768 on the CPU.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tadisr import TADiSR, load, preset, upscale  # noqa: E402
from tadisr.checkpoints import adapter  # noqa: E402
from tadisr.checkpoints.base_model import build_part, load_part  # noqa: E402
from tadisr.checkpoints.key_mapping import map_unet_names, map_vae_names  # noqa: E402
from tadisr.checkpoints.tensor_index import find_table  # noqa: E402
from tadisr.config import LoRAConfig  # noqa: E402
from tadisr.images import read_image, resize_image  # noqa: E402
from tadisr.model.lora import add_lora  # noqa: E402
from tadisr.model.precision import DTYPES, FP8  # noqa: E402

NAMES = {"unet": map_unet_names, "vae": map_vae_names}
VARIANT = "diffusion_pytorch_model.fp16.safetensors"
ROUTES = [
    ("kolors", "fp16"), ("kolors", "bf16"), ("kolors", "fp8"), ("single", "fp16"), ("single", "fp8"),
]  # fmt: skip
TILE = 768


def write(folder: Path) -> None:
    """Both layouts, and an adapter on them. Every matrix is the beginning of one block of numbers, scaled to its width."""
    config = preset("kolors")
    block = torch.randn(2**25, generator=torch.Generator().manual_seed(0)).half()
    for part in config.parts:
        shapes = {name: tensor.shape for name, tensor in build_part(config, part).state_dict().items()}
        names = NAMES[part](shapes, getattr(config, part))
        stream(folder / "kolors" / part / VARIANT, shapes, block)
        stream(folder / "single" / f"{part}.safetensors", {names[name]: shape for name, shape in shapes.items()}, block)
    with torch.device("meta"):
        model = TADiSR(config)
        add_lora(model, config.lora or LoRAConfig())
    tensors = {
        name: values(name, tensor.shape, block).float() for name, tensor in adapter.trained_tensors(model).items()
    }
    tensors["prompt.positions"] = torch.tensor([config.prompt.tokens - 1])
    adapter.write_checkpoint(folder / "adapter.safetensors", config, tensors, base={"name": config.name})


def values(name: str, shape: torch.Size, block: torch.Tensor) -> torch.Tensor:
    """Random numbers that keep an activation's size from layer to layer, norms of one, biases of zero."""
    if len(shape) < 2:
        return torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=block.dtype)
    width = 1.0 if name.startswith("prompt.") else shape[1:].numel()
    return (block[: shape.numel()] * width**-0.5).reshape(shape)


def stream(path: Path, shapes: dict[str, torch.Size], block: torch.Tensor) -> None:
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
        for name, shape in shapes.items():
            file.write(memoryview(values(name, shape, block).numpy().reshape(-1)))


def peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
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


def run(folder: Path, kind: str) -> None:
    """The adapter on its base, by the library's own door: load, then one image that is one tile."""
    before, begun = peak(), time.perf_counter()
    model = load(folder / "adapter.safetensors", base=folder / "kolors", dtype=DTYPES[kind])
    loaded, held = time.perf_counter() - begun, peak()
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    seconds: dict[str, float] = {}

    def timed(stage: str) -> None:
        own = getattr(model, stage)

        def wrapped(*arguments: object) -> object:
            begun = time.perf_counter()
            result = own(*arguments)
            seconds[stage] = round(time.perf_counter() - begun, 1)
            return result

        setattr(model, stage, wrapped)

    for stage in ("encode", "denoise", "project", "decode"):
        timed(stage)
    picture = resize_image(read_image(ROOT / "sample" / "sample.png")[:, :3], (TILE // 4, TILE // 4))
    begun = time.perf_counter()
    result = upscale(model, picture)
    took = time.perf_counter() - begun
    assert result.image.shape == (1, 3, TILE, TILE) and result.mask.shape == (1, 1, TILE, TILE)
    assert result.image.isfinite().all() and result.image.std() > 0.01 and result.mask.std() > 0.01
    print(json.dumps({
        "tile": TILE, "dtype": kind, "threads": torch.get_num_threads(), "load": round(loaded, 1), "run": round(took, 1),
        **seconds, "weights": weights, "peak_loading": held - before, "peak": peak() - before,
        "image": [round(float(x), 3) for x in (result.image.mean(), result.image.std())],
        "mask": [round(float(x), 3) for x in (result.mask.mean(), result.mask.std())],
    }))  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(Path(sys.argv[1]), sys.argv[2])
    elif len(sys.argv) == 4:
        measure(Path(sys.argv[1]), *sys.argv[2:])
    else:
        base = Path(sys.argv[1]) / "kolors_at_size"
        try:
            write(base)
            for route in ROUTES:
                subprocess.run([sys.executable, __file__, str(base), *route], check=True)
            subprocess.run([sys.executable, __file__, str(base), "bf16"], check=True)
        finally:
            shutil.rmtree(base, ignore_errors=True)
