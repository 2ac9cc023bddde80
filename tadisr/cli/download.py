"""`python -m tadisr download NAME`: say what it is, how large and under which licence; ask; fetch."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from ..checkpoints import hub
from ..errors import TADiSRError
from ..inference.upscale import COMPACT

SHIPPED = "compact"


def add_command(commands: Any) -> argparse.ArgumentParser:
    command = commands.add_parser("download", help="fetch Kolors, CogView4 or the authors' releases from the hub")
    command.add_argument("what", choices=[*hub.SOURCES, SHIPPED], help="compact ships with the pack")
    command.add_argument(
        "--to", type=Path, metavar="DIR",
        help="folder (default: Kolors for kolors, CogView4-6B for cogview4, else the current one)",
    )  # fmt: skip
    command.add_argument(
        "--parts", nargs="+", metavar="PART",
        help="of kolors: unet vae text_encoder tokenizer (default unet vae); of cogview4: transformer instead of unet",
    )  # fmt: skip
    command.add_argument("--endpoint", metavar="URL", help="a mirror of the hub (default: HF_ENDPOINT, or the hub)")
    command.add_argument("--repo", metavar="OWNER/NAME", help="another repository with the same files")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.set_defaults(run=run_command)
    return command


def run_command(arguments: argparse.Namespace) -> int:
    if arguments.what == SHIPPED:
        return copy_compact(arguments.to)
    source = hub.SOURCES[arguments.what]
    folder = arguments.to or Path(source.folder)
    unknown = [part for part in arguments.parts or () if part not in source.parts]
    if unknown:
        raise TADiSRError(f"{arguments.what} has no part {unknown[0]!r}; known are {', '.join(source.parts)}.")
    plan = hub.plan_download(
        source, folder, parts=tuple(arguments.parts or ()) or None, repo=arguments.repo, endpoint=arguments.endpoint
    )
    print(f"{plan.repo} at {plan.endpoint}, revision {plan.commit[:12]}\nLicence: {plan.licence}")
    for file in plan.wanted:
        state = "" if file in plan.missing else "  (there)"
        print(f"  {hub.format_size(file.size):>10}  {file.path}{state}")
    if plan.missing:
        print(f"{hub.format_size(plan.count_bytes_left(folder))} to fetch into {folder.absolute()}")
        if not (arguments.yes or ask_agreement()):
            print("Nothing was downloaded.")
            return 1
        hub.download_missing(plan, folder)
    print(f"All {len(plan.wanted)} files are in {folder.absolute()}, their digests are right. {source.after}")
    return 0


def ask_agreement() -> bool:
    """Ask the user to agree. Raises TADiSRError if there is nobody to ask."""
    if not sys.stdin.isatty():
        raise TADiSRError("Nobody can be asked here: give --yes to agree to size and licence.")
    return input("Go on? [y/N] ").strip().lower() in {"y", "yes"}


def copy_compact(folder: Path | None) -> int:
    if folder is None:
        print(f"The compact model ships with the pack, nothing is to be downloaded: {COMPACT}")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(COMPACT, folder / COMPACT.name)
    print(f"The compact model ships with the pack; copied to {folder / COMPACT.name}")
    return 0
