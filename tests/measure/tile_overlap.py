"""How much the overlap of two tiles matters: the tiled image against the same image in one tile.

    python tests/measure/tile_overlap.py IMAGE [--model FILE] [--tile 512]

Prints, for each overlap, the mean, the 99.9th percentile and the largest difference in 1/255, the largest of the mask in
[0, 1], and the area of all tiles over the image's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import tadisr
from tadisr.images import read_image
from tadisr.inference.tiling import Tiling, list_windows

OVERLAPS = (0, 16, 32, 64, 96, 128, 192, 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tile", type=int, default=512)
    arguments = parser.parse_args()
    model, image = tadisr.load(arguments.model), read_image(arguments.image)[:, :3]
    height, width = image.shape[-2:]
    whole = tadisr.upscale(model, image, tiling=Tiling(tile=8192, overlap=0), detail=1.0)
    for overlap in OVERLAPS:
        if overlap > arguments.tile // 2:
            break
        tiling = Tiling(tile=arguments.tile, overlap=overlap)
        result = tadisr.upscale(model, image, tiling=tiling, detail=1.0)
        difference = 255 * (result.image - whole.image).abs().flatten()
        rank = max(1, int(0.999 * difference.numel()))
        area = sum(window.height * window.width for window in list_windows(1, height, width, tiling))
        print(
            f"overlap {overlap:3d}: mean {difference.mean():.3f}, 99.9 % {difference.kthvalue(rank).values:.2f}, largest "
            f"{difference.max():.2f}, mask {(result.mask - whole.mask).abs().max():.3f}, area x {area / (height * width):.2f}"
        )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
