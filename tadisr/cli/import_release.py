"""`python -m tadisr import-release`: the authors' published pickle as an adapter of ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checkpoints import adapter


def add_command(commands: Any) -> None:
    command = commands.add_parser(
        "import-release", help="make an adapter of one of the two pickles that the authors published"
    )
    command.add_argument("file", type=Path, metavar="FILE.pkl", help="their Kolors or their CogView4 file")
    command.add_argument(
        "--prompt", type=Path, metavar="PROMPT",
        help="a prompt file (python -m tadisr prompt) that the adapter is to carry; without one it asks when it is loaded",
    )  # fmt: skip
    command.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help="NAME.safetensors")
    command.set_defaults(run=run_command)


def run_command(arguments: argparse.Namespace) -> int:
    from ..checkpoints.release_import import PUBLISHED, read_release
    from ..prompt import read_prompt

    prompt = None if arguments.prompt is None else read_prompt(arguments.prompt)
    found = read_release(arguments.file, prompt=prompt)
    name, published = found.config.name, PUBLISHED[found.config.name]
    adapter.write_checkpoint(arguments.out, found.config, found.tensors, base={"name": name}, training=found.record)
    print(f"{arguments.out}: {name}, {len(found.tensors)} tensors, {arguments.out.stat().st_size:,} bytes.")
    if found.genuine:
        print(f"{arguments.file} is {published.file} as it was published (sha256 {published.sha256[:12]}).")
    else:
        print(
            f"{arguments.file} has the layout of {published.file} but another content: sha256 "
            f"{found.record['sha256'][:12]}, published {published.sha256[:12]}."
        )
    if prompt is None:
        print(f"It carries no prompt. Encode {found.config.prompt.text!r} with the text encoder of {published.base}.")
    for what, sentence in published.unknown.items():
        print(f"Unknown, {what}: {sentence}")
    return 0
