"""`python -m tadisr upscale`: files, folders and globs."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import SCALE
from ..devices import choose_placement
from ..errors import ConfigError
from ..files.plan import ArgumentsError, Job, Plan, make_plan
from ..files.upscale import Results, Summary, Watcher, summarize, upscale_files
from ..images.write import FORMATS, QUALITY
from ..inference import color
from ..inference.tiling import BLENDS, Tiling, fit_overlap
from ..inference.time_left import TimeLeft
from ..inference.upscale import load
from ..inference.upscale_strips import upscale_strips
from ..ocr import ENGINES, open_reader


def add(commands: Any) -> argparse.ArgumentParser:
    up = commands.add_parser("upscale", help="upscale files, folders or globs")
    up.add_argument("inputs", nargs="+", metavar="IN", help="an image, a folder (searched deeply) or a glob")
    up.add_argument(
        "-o", "--out", required=True, type=output_path, help="a folder; for one image also NAME.png, .jpg ..."
    )
    up.add_argument("--format", choices=list(FORMATS), help="of the results (default: by the ending of -o, else png)")
    up.add_argument("--quality", type=int, help=f"of JPEG, WebP, AVIF: 1 to 100 (default {QUALITY}; WebP: lossless)")
    up.add_argument("--overwrite", action="store_true", help="results may replace the inputs themselves")
    up.add_argument("--skip-existing", action="store_true", help="leave out what has a result already")
    up.add_argument("--scale", type=float, default=SCALE, help="magnification, 1 to 4 (default 4)")
    up.add_argument("--tile", type=int, default=Tiling.tile, help="tile side in pixels of the 4x image (default 768)")
    up.add_argument(
        "--overlap", type=int, help="pixels two tiles share, at most half a tile (default: the model's, 64 for compact)"
    )
    up.add_argument("--batch", type=int, default=1, help="tiles run at once (default 1)")
    up.add_argument("--color", choices=color.MODES, default="off", help="match the input's colours (default off)")
    up.add_argument("--fidelity", type=float, default=0.0, help="share of the input kept outside the text (default 0)")
    up.add_argument(
        "--detail", type=float,
        help="0 to 1: how much is kept of what a model with a certainty output is not sure of (default: the model's)",
    )  # fmt: skip
    up.add_argument(
        "--text-guard", nargs="?", const="auto", choices=["auto", *ENGINES], metavar="ENGINE",
        help="blend lines back to the enlargement that an OCR engine reads differently after upscaling: auto (default), "
        f"{' or '.join(ENGINES)}; needs the extra ocr",
    )  # fmt: skip
    up.add_argument("--ocr-models", type=Path, metavar="FOLDER", help="models of the text guard's engine")
    up.add_argument("--blend", choices=list(BLENDS), default="cosine", help="across the overlap (default cosine)")
    up.add_argument("--text-aware", action="store_true", help="lay the seams between tiles where there is least text")
    up.add_argument("--prompt", type=Path, help="a prompt file instead of the prompt that the adapter carries")
    up.add_argument("--mask", action="store_true", help="write the text mask beside each image, NAME_mask.png")
    up.add_argument(
        "--certainty", action="store_true",
        help="write how sure the network is of each pixel, NAME_certainty.png, white where it is sure",
    )  # fmt: skip
    up.add_argument("--compare", action="store_true", help="write input, result and mask as one, NAME_compare.jpg")
    up.add_argument("--quiet", action="store_true", help="print errors only")
    up.add_argument("--json", action="store_true", help="print the summary as JSON")
    up.set_defaults(run=run)
    return up


def output_path(text: str) -> Path:
    """The argument of -o. An empty one is a script's unset variable, not the working folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: give a folder or a file")
    return Path(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the command. Exit code 0, or 1 if an image failed. Raises TADiSRError; ArgumentsError before any work."""
    plan = make_plan(
        arguments.inputs, arguments.out, kind=arguments.format, mask=arguments.mask, certainty=arguments.certainty,
        sheet=arguments.compare, overwrite=arguments.overwrite, skip_existing=arguments.skip_existing,
    )  # fmt: skip
    try:
        results = Results(
            arguments.scale, arguments.quality,
            mask=arguments.mask, certainty=arguments.certainty, sheet=arguments.compare,
        )  # fmt: skip
    except ConfigError as error:
        raise ArgumentsError(str(error)) from None
    overlap = fit_overlap(arguments.tile, Tiling.overlap) if arguments.overlap is None else arguments.overlap  # checked
    tiling = Tiling(
        tile=arguments.tile,
        overlap=overlap,
        batch=arguments.batch,
        blend=arguments.blend,
        text_aware=arguments.text_aware,
    )
    summary = Summary.of_plan(plan)
    if plan.jobs:
        device, dtype = choose_placement(arguments)
        model = load(
            arguments.model, base=arguments.base, vae=arguments.vae, prompt=arguments.prompt, device=device, dtype=dtype,
            strength=arguments.strength,
        )  # fmt: skip
        if arguments.certainty and not model.gives_certainty:
            raise ArgumentsError(f"The {model.config.name} model has no certainty output: leave out --certainty.")
        if arguments.overlap is None:
            tiling = replace(tiling, overlap=fit_overlap(arguments.tile, model.config.overlap))
        guard = None if arguments.text_guard is None else open_reader(arguments.text_guard, arguments.ocr_models)
        hidden = True if arguments.quiet or arguments.json else None
        with Bar(len(plan.jobs), hidden) as bar:
            make_strips = partial(
                upscale_strips, model, scale=arguments.scale, tiling=tiling, fidelity=arguments.fidelity,
                detail=arguments.detail, color_fix=arguments.color, text_guard=guard,
                progress=bar.count_tiles,
            )  # fmt: skip
            summary = upscale_files(plan, make_strips, results, bar)
    report(summary, plan, arguments)
    return 1 if summary.failed else 0


class Bar(Watcher):
    """A bar of images with the tiles of the current one, and on stderr what is said of them."""

    def __init__(self, total: int, hidden: bool | None) -> None:
        self.bar = tqdm(total=total, unit="image", disable=hidden)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def begin(self, job: Job) -> None:
        self.name, self.time = job.source.name, TimeLeft()
        self.bar.set_postfix_str(self.name)

    def count_tiles(self, done: int, total: int) -> None:
        if total > 1:
            self.bar.set_postfix_str(f"{self.name}, {self.time.describe(done, total, 'tile')}")

    def end(self, job: Job) -> None:
        self.bar.update()

    def failed(self, job: Job, error: BaseException) -> None:
        self.say(f"failed: {job.source}: {error}")

    def say(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)


def report(summary: Summary, plan: Plan, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(vars(summary), indent=2))
    elif not arguments.quiet:
        print(summarize(summary, plan, arguments.out).partition("\n")[0])
