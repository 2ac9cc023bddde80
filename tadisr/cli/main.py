"""The command line: `python -m tadisr upscale IN... -o OUT`; `info`, `prompt`, `download`, `import-release`, `bench`."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from ..checkpoints import adapter
from ..config import SCALE
from ..devices import placement
from ..errors import TADiSRError
from ..images import read_image, write_png
from ..inference import color
from ..inference.tiling import BLENDS, Tiling
from ..inference.upscale import COMPACT, load, upscale_in_memory
from ..model.precision import DTYPES
from ..profiling import benchmark
from . import download, import_release, memory, prompt

log = logging.getLogger("tadisr")

SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
Job = tuple[Path, Path]  # a picture, and the PNG it becomes


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m tadisr", description="Upscale pictures 4x and keep their text legible."
    )
    commands = top.add_subparsers(dest="command", required=True)

    up = commands.add_parser("upscale", help="upscale files, folders or globs")
    up.add_argument("inputs", nargs="+", metavar="IN", help="a picture, a folder (searched deeply) or a glob")
    up.add_argument("-o", "--out", required=True, type=Path, help="a folder; for one picture also NAME.png")
    up.add_argument("--scale", type=float, default=SCALE, help="magnification, 1 to 4 (default 4)")
    up.add_argument("--tile", type=int, default=768, help="tile side in pixels of the 4x picture (default 768)")
    up.add_argument("--overlap", type=int, default=256, help="pixels two tiles share (default 256)")
    up.add_argument("--batch", type=int, default=1, help="tiles run at once (default 1)")
    up.add_argument("--color", choices=color.MODES, default="off", help="match the input's colours (default off)")
    up.add_argument("--fidelity", type=float, default=0.0, help="share of the input kept outside the text (default 0)")
    up.add_argument(
        "--detail", type=float,
        help="0 to 1: how much is kept of what a model with a certainty output is not sure of (default: the model's)",
    )  # fmt: skip
    up.add_argument("--blend", choices=list(BLENDS), default="cosine", help="across the overlap (default cosine)")
    up.add_argument("--text-aware", action="store_true", help="lay the seams between tiles where there is least text")
    up.add_argument("--prompt", type=Path, help="a prompt file instead of the prompt that the adapter carries")
    up.add_argument("--mask", action="store_true", help="write the text mask beside each picture, NAME_mask.png")
    up.set_defaults(run=run_upscale)

    info = commands.add_parser("info", help="print a checkpoint's config, digest and training record as JSON")
    info.add_argument("file", nargs="?", type=Path, default=COMPACT, help="default: the compact model")
    info.set_defaults(run=run_info)

    measure = commands.add_parser("bench", help="measure the stages and print JSON")
    measure.add_argument("--size", type=int, default=512, help="side of the 4x picture (default 512)")
    measure.add_argument("--batch", type=int, default=1, help="pictures at once (default 1)")
    measure.add_argument("--runs", type=int, default=5, help="measured runs, the median counts (default 5)")
    measure.set_defaults(run=run_bench)

    encode = prompt.add(commands)
    memory.add(commands)
    download.add(commands)
    import_release.add(commands)

    for command in (up, measure):
        command.add_argument("--model", type=Path, help="a checkpoint of ours (default: the compact model)")
        command.add_argument("--base", type=Path, help="an adapter's frozen base: its folder, or the file of its U-Net")
        command.add_argument("--vae", type=Path, help="folder or file of the base's VAE, if --base is a file")
        command.add_argument("--strength", type=float, default=1.0, help="of the adapter's LoRA (default 1)")
    for command in (up, measure, encode):
        command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default auto)")
        kinds = [name for name in DTYPES if command is not encode or name != "fp8"]
        command.add_argument(
            "--dtype", choices=["auto", *kinds], default="auto",
            help="default: fp32 on a CPU, else fp16; fp8 stores the base's matrices in it and computes in 16 bit",
        )  # fmt: skip
    return top


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, 1 if a picture failed, 2 for wrong arguments, 130 when interrupted."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # ours alone: the hub's library logs every request
    try:
        return arguments.run(arguments)
    except TADiSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_upscale(arguments: argparse.Namespace) -> int:
    jobs = list(plan(arguments.inputs, arguments.out))
    clash = {mask_of(target) for _, target in jobs} & {target for _, target in jobs}
    if arguments.mask and clash:
        raise TADiSRError(f"{min(clash)} would be both a picture and a mask: give the two to calls of their own.")
    if not jobs:
        raise TADiSRError(f"No pictures in {' '.join(arguments.inputs)}; known are {', '.join(sorted(SUFFIXES))}.")
    tiling = Tiling(
        tile=arguments.tile, overlap=arguments.overlap, batch=arguments.batch, blend=arguments.blend,
        text_aware=arguments.text_aware,
    )  # fmt: skip
    device, dtype = placement(arguments)
    model = load(
        arguments.model, base=arguments.base, vae=arguments.vae, prompt=arguments.prompt, device=device, dtype=dtype,
        strength=arguments.strength,
    )  # fmt: skip
    failed = 0
    for source, target in (bar := tqdm(jobs, unit="picture", disable=None)):
        bar.set_postfix_str(source.name)
        try:
            result = upscale_in_memory(
                model, read_image(source), scale=arguments.scale, tiling=tiling, fidelity=arguments.fidelity,
                detail=arguments.detail, color_fix=arguments.color, say=bar.write,
            )  # fmt: skip
            write_png(target, result.image)
            if arguments.mask:
                write_png(mask_of(target), result.mask)
        except (TADiSRError, OSError, MemoryError, RuntimeError) as error:
            failed += 1
            bar.write(f"failed: {source}: {error}", file=sys.stderr)
    print(f"{len(jobs) - failed} of {len(jobs)} pictures upscaled into {arguments.out}")
    return 1 if failed else 0


def mask_of(target: Path) -> Path:
    return target.with_name(f"{target.stem}_mask.png")


def plan(inputs: list[str], out: Path) -> Iterator[Job]:
    """What becomes what: a folder's tree is kept under `out`, files that are no pictures in it are passed over.

    A target that two pictures would share (a.png, a.jpg) keeps the second one's suffix in its name: a.jpg.png.
    Raises TADiSRError for an input that does not exist.
    """
    sources = [pair for text in inputs for pair in expand(text)]
    if len(sources) == 1 and out.suffix.lower() == ".png" and not out.is_dir():
        yield sources[0][0], out
        return
    taken: set[Path] = set()
    for path, relative in sources:
        target = out / relative.with_suffix(".png")
        if target in taken:
            target = out / relative.with_name(f"{relative.name}.png")
        if target in taken:
            raise TADiSRError(f"Two pictures would become {target}: give them to two calls with two folders.")
        taken.add(target)
        yield path, target


def expand(text: str) -> list[tuple[Path, Path]]:
    """A file, a folder or a glob as (file, its place under the output folder) in a fixed order."""
    path = Path(text)
    if path.is_dir():
        return [
            (p, p.relative_to(path)) for p in sorted(path.rglob("*")) if p.is_file() and p.suffix.lower() in SUFFIXES
        ]
    if path.is_file():
        return [(path, Path(path.name))]
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]
    if not matches:
        raise TADiSRError(f"There is no {text}.")
    return [(p, Path(p.name)) for p in matches if p.is_file() and p.suffix.lower() in SUFFIXES]


def run_info(arguments: argparse.Namespace) -> int:
    header = dataclasses.asdict(adapter.read_header(arguments.file)) | {"digest": adapter.file_digest(arguments.file)}
    print(json.dumps(header, indent=2, ensure_ascii=False, default=str))
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    device, dtype = placement(arguments)
    model = load(
        arguments.model, base=arguments.base, vae=arguments.vae, device=device, dtype=dtype, strength=arguments.strength
    )
    report = benchmark.measure(model, size=arguments.size, batch=arguments.batch, runs=arguments.runs)
    print(json.dumps(report, indent=2))
    return 0
