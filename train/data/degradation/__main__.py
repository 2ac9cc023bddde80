"""Make LR pairs of a folder of images: python -m train.data.degradation SOURCE OUT --preset ftsr-authors

Writes hr/ (cut to multiples of 4) and lr/, which train.evaluate reads; `--draws 2` degrades every image twice.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tadisr.config import SCALE
from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError

from ..pairs import list_images, read_rgb
from .on_tensors import degrade_batch
from .recipes import PRESETS, RECIPES, degrade_image


def write_pairs(source: Path, out: Path, preset: str, *, draws: int = 1, seed: int = 0, tools: str = "opencv") -> int:
    """Degrade every image under `source` `draws` times, and return the number of pairs written. Raises ConfigError,
    ImageError.
    """
    files = list_images(source)
    if not files:
        raise ConfigError(f"{source} holds no images.")
    for number, (key, path) in enumerate(files.items()):
        pixels = read_rgb(path)
        hr = pixels[: pixels.shape[0] // SCALE * SCALE, : pixels.shape[1] // SCALE * SCALE].astype(np.float32) / 255
        for draw in range(draws):
            rng = np.random.default_rng([seed, number, draw])
            if tools == "torch":
                batch = torch.from_numpy(hr).permute(2, 0, 1)[None]
                lr = degrade_batch(batch, preset, [rng])[0].permute(1, 2, 0).numpy()
            else:
                lr = degrade_image(hr, preset, rng)
            for folder, image in (("hr", hr), ("lr", lr)):
                file = out / folder / f"{key}-{draw}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((image * 255).round().astype(np.uint8)).save(file)
    return len(files) * draws


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.data.degradation", description="Make LR pairs of a folder.")
    parser.add_argument("source", type=Path, help="a folder of HR images")
    parser.add_argument("out", type=Path, help="a folder for hr/ and lr/")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="ftsr-authors")
    parser.add_argument("--draws", type=int, default=1, help="times that each image is degraded (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--tools", choices=("opencv", "torch"), default="opencv", help=f"torch: {', '.join(RECIPES)} (default opencv)"
    )
    a = parser.parse_args(argv)
    try:
        print(f"{write_pairs(a.source, a.out, a.preset, draws=a.draws, seed=a.seed, tools=a.tools)} pairs in {a.out}")
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
