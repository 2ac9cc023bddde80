"""`python -m tadisr prompt`: encode a prompt once and keep it as a small file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import PromptConfig


def add_command(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser("prompt", help="encode a prompt with the base's text encoder into a small file")
    command.add_argument(
        "--text-encoder", required=True, type=Path, metavar="PATH",
        help="the Kolors folder (also of the hub's cache), its text_encoder folder, or one ChatGLM3 safetensors (fp16, "
        "8-bit, 4-bit); or the CogView4 folder",
    )  # fmt: skip
    command.add_argument(
        "--tokenizer", type=Path, metavar="PATH", help="tokenizer.model or its folder (default: beside the encoder)"
    )
    command.add_argument(
        "--text", help=f"the prompt (default for Kolors {PromptConfig.text!r}, for CogView4 the authors' longer one)"
    )
    command.add_argument("--word", default=PromptConfig.word, help="its word that stands for text (default 'text')")
    command.add_argument("-o", "--out", required=True, type=Path, metavar="FILE", help="NAME.safetensors")
    command.set_defaults(run=run_command)
    return command


def run_command(arguments: argparse.Namespace) -> int:
    from ..devices import choose_placement
    from ..text_encoders import encoder_of

    encoder = encoder_of(arguments.text_encoder)
    device, dtype = choose_placement(arguments)
    with tqdm(unit="layer", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        prompt = encoder.encode_prompt(
            arguments.text_encoder, tokenizer=arguments.tokenizer, text=arguments.text or encoder.TEXT,
            word=arguments.word, device=device, dtype=dtype, progress=progress,
        )  # fmt: skip
    prompt.save(arguments.out)
    places = ", ".join(map(str, prompt.positions.tolist()))
    print(
        f"{arguments.out}: {int(prompt.mask.sum())} tokens, the word {prompt.word!r} at {places} of {len(prompt.mask)}."
    )
    return 0
