"""The command line: `python -m tadisr upscale IN... -o OUT`; `info`, `prompt`, `download`, `import-release`, `bench`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import warnings
from pathlib import Path

from PIL import Image

from ..allocator import keep_buffers
from ..checkpoints import adapter
from ..console import escape_unknown_characters
from ..devices import choose_placement
from ..errors import TADiSRError
from ..file_digest import hash_file
from ..files.plan import ArgumentsError
from ..inference.upscale import COMPACT, load
from ..model.precision import DTYPES
from ..profiling import benchmark
from . import download, import_release, memory, prompt, upscale

log = logging.getLogger("tadisr")


def build_parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tadisr", description="Upscale images 4x and keep their text legible.")
    commands = top.add_subparsers(dest="command", required=True)

    up = upscale.add(commands)

    info = commands.add_parser("info", help="print a checkpoint's config, digest and training record as JSON")
    info.add_argument("file", nargs="?", type=Path, default=COMPACT, help="default: the compact model")
    info.set_defaults(run=run_info)

    measure = commands.add_parser("bench", help="measure the stages and print JSON")
    measure.add_argument("--size", type=int, default=512, help="side of the 4x image (default 512)")
    measure.add_argument("--batch", type=int, default=1, help="images at once (default 1)")
    measure.add_argument("--runs", type=int, default=5, help="measured runs, the median counts (default 5)")
    measure.set_defaults(run=run_bench)

    encode = prompt.add_command(commands)
    memory.add_command(commands)
    download.add_command(commands)
    import_release.add_command(commands)

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
    """Run the command. Exit code 0, 1 if an image failed, 2 for wrong arguments, 130 when interrupted."""
    escape_unknown_characters()
    arguments = build_parser().parse_args(argv)
    keep_buffers()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused, the rest is read
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)  # ours alone: the hub's library logs every request
    try:
        return arguments.run(arguments)
    except TADiSRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentsError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_info(arguments: argparse.Namespace) -> int:
    header = dataclasses.asdict(adapter.read_header(arguments.file)) | {"digest": hash_file(arguments.file)}
    print(json.dumps(header, indent=2, ensure_ascii=False, default=str))
    return 0


def run_bench(arguments: argparse.Namespace) -> int:
    device, dtype = choose_placement(arguments)
    model = load(
        arguments.model, base=arguments.base, vae=arguments.vae, device=device, dtype=dtype, strength=arguments.strength
    )
    report = benchmark.measure_stages(model, size=arguments.size, batch=arguments.batch, runs=arguments.runs)
    print(json.dumps(report, indent=2))
    return 0
