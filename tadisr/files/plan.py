"""Plan which images a command reads, and which file each of them becomes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError, TADiSRError
from ..images.read import HEIF_SUFFIXES, readable_suffixes
from ..images.write import FORMATS, find_format

NAME_LIMIT = 255  # bytes of a file's name
IMAGES_NOT_WRITTEN = {".gif", ".bmp", ".heic", ".heif", ".jp2", ".ppm", ".tga", ".psd", ".svg", ".pdf"}
APPLE_DOUBLE = "AppleDouble files"
NO_FILES = "no files (pipes, devices, links to nothing)"
CLOSED = "folders that may not be read"
NO_HEIF = "HEIC, which needs pillow-heif (pip install pillow-heif)"
OTHERS = "no images that are read here"


class ArgumentsError(ConfigError):
    """Arguments that cannot be carried out together: exit code 2."""


@dataclass(frozen=True)
class Job:
    """One image file, and the file it becomes; several frames may become several files beside it."""

    source: Path
    target: Path

    def numbered(self, index: int) -> Path:
        """Return the file of frame `index`, counted from 0, for a format that holds only one."""
        return name_beside(self.target, f"_{index + 1:04d}", self.target.suffix)

    def exists(self) -> bool:
        return self.target.exists() or self.numbered(0).exists()


@dataclass
class Plan:
    """jobs: what to do. skipped: whose results exist. left_out: files of the folders that are not read, by reason."""

    jobs: list[Job] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)

    def leave_out(self, path: Path, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(path)


def name_beside(target: Path, ending: str, suffix: str) -> Path:
    """Name a file that belongs to `target`, cut so that the file system takes it."""
    stem = target.stem
    while len(os.fsencode(stem + ending + suffix)) > NAME_LIMIT:
        stem = stem[:-1]
    return target.with_name(stem + ending + suffix)


def mask_of(target: Path) -> Path:
    return name_beside(target, "_mask", ".png")


def certainty_of(target: Path) -> Path:
    return name_beside(target, "_certainty", ".png")


def sheet_of(target: Path) -> Path:
    return name_beside(target, "_compare", ".jpg")


def make_plan(
    inputs: list[str],
    out: Path,
    *,
    kind: str | None = None,
    mask: bool = False,
    certainty: bool = False,
    sheet: bool = False,
    overwrite: bool = False,
    skip_existing: bool = False,
) -> Plan:
    """Decide what becomes what, before any work.

    A folder's tree is kept under `out`; a target that two images would share (a.png, a.jpg) keeps the second one's suffix
    in its name: a.jpg.png. kind: the format's name, None: by the ending of `out`, else png. Raises TADiSRError for an
    input that is missing or none at all, ArgumentsError where an input would be overwritten, one file is to hold many, or
    the output folder cannot be written.
    """
    plan = Plan()
    sources = find_images(inputs, out, plan)
    if not sources:
        known = ", ".join(sorted(readable_suffixes()))
        raise TADiSRError(f"No images in {' '.join(inputs)}; known are {known}.{summarize_left_out(plan.left_out)}")
    single = names_file(out)
    check_place(out.parent if single else out)
    if single and len(sources) > 1:
        raise ArgumentsError(f"{out} is one file, but there are {len(sources)} images: give a folder.")
    if single:
        kind = check_file(out, kind)
        plan.jobs = [Job(sources[0][0], out)]
    else:
        plan.jobs = list(assign(sources, out, FORMATS[kind or "png"].suffixes[0]))
    check_targets(plan.jobs, mask=mask, certainty=certainty, sheet=sheet, overwrite=overwrite)
    if skip_existing:
        plan.skipped = [job.source for job in plan.jobs if job.exists()]
        plan.jobs = [job for job in plan.jobs if not job.exists()]
    return plan


def names_file(out: Path) -> bool:
    """Tell by its ending whether `out` is meant as a file."""
    known = {*IMAGES_NOT_WRITTEN, *(suffix for kind in FORMATS.values() for suffix in kind.suffixes)}
    return out.suffix.lower() in known and not out.is_dir()


def check_place(folder: Path) -> None:
    """Raises ArgumentsError where a folder is none, cannot be made, or may not be written to."""
    places = (folder, *folder.absolute().parents)
    existing = next(path for path in places if os.path.lexists(path))
    if not existing.is_dir():
        raise ArgumentsError(f"Nothing can be written into {folder}: {existing} is no folder. Give another -o.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ArgumentsError(f"Nothing can be written into {folder}: {existing} is read-only here. Give another -o.")


def check_file(out: Path, kind: str | None) -> str:
    """Find the format of a single file by its ending. Raises ArgumentsError."""
    found = find_format(out)
    if found is None:
        endings = ", ".join(kind.suffixes[0] for kind in FORMATS.values())
        raise ArgumentsError(f"{out} is of a format that is not written: choose one of {endings}.")
    if kind not in (None, found):
        raise ArgumentsError(f"{out} ends as {found}, but --format is {kind}: leave one of the two out.")
    return found


def assign(sources: list[tuple[Path, Path]], out: Path, suffix: str) -> Iterator[Job]:
    taken: set[Path] = set()
    for path, relative in sources:
        target = name_beside(out / relative, "", suffix)
        if target in taken:
            target = name_beside(out / relative.with_name(f"{relative.name}.x"), "", suffix)
        if target in taken:
            raise TADiSRError(f"Two images would become {target}: give them to two calls with two folders.")
        taken.add(target)
        yield Job(path, target)


def check_targets(jobs: list[Job], *, mask: bool, certainty: bool, sheet: bool, overwrite: bool) -> None:
    """Raises TADiSRError where two results would share a file, ArgumentsError where an input would be overwritten."""
    targets = [job.target for job in jobs]
    beside = [mask_of(target) for target in targets] if mask else []
    beside += [certainty_of(target) for target in targets] if certainty else []
    beside += [sheet_of(target) for target in targets] if sheet else []
    clash = set(beside) & set(targets)
    if clash:
        raise TADiSRError(f"{min(clash)} would be both an image and a map of one: give the two to calls of their own.")
    if overwrite:
        return
    sources = {identity(job.source) for job in jobs}
    for target in (*targets, *beside):
        if target.exists() and identity(target) in sources:
            raise ArgumentsError(
                f"{target} is an input and would be overwritten: give another -o, or --overwrite if that is meant."
            )


def identity(path: Path) -> tuple[int, int]:
    """Return the device and inode, which are the same for every name of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def find_images(inputs: Iterable[str], out: Path, plan: Plan) -> list[tuple[Path, Path]]:
    """Find every image of the inputs once, with its place under the output folder, in a fixed order.

    The output folder is left out of the search, and what is not read is noted in the plan.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for text in inputs:
        for path, relative in expand(text, plan):
            searched = Path(text) != path
            if searched and is_below(path, out, Path(text)):
                continue
            reason = reason_to_leave_out(path) if searched else None
            if reason is not None:
                plan.leave_out(path, reason)
            else:
                found.setdefault(path.resolve(), (path, relative))
    return list(found.values())


def is_below(path: Path, out: Path, searched: Path) -> bool:
    """Tell whether a file is in the output folder, where that is not the searched folder itself."""
    folder = out.resolve()
    return (
        folder in path.resolve().parents and folder != searched.resolve() and folder not in searched.resolve().parents
    )


def reason_to_leave_out(path: Path) -> str | None:
    if path.name.startswith("._"):
        return APPLE_DOUBLE
    if not path.is_file():
        return NO_FILES
    suffix = path.suffix.lower()
    if suffix in readable_suffixes():
        return None
    return NO_HEIF if suffix in HEIF_SUFFIXES else OTHERS


def summarize_left_out(left_out: dict[str, list[Path]], most: int = 8) -> str:
    """Write one sentence for each reason, led by a space; of many names the first ones."""
    sentences = []
    for reason, paths in left_out.items():
        names = ", ".join(path.name for path in paths[:most])
        more = f" and {len(paths) - most} more" if len(paths) > most else ""
        sentences.append(f" Left out as {reason}: {names}{more}.")
    return "".join(sentences)


def expand(text: str, plan: Plan) -> list[tuple[Path, Path]]:
    """Expand a file, a folder or a glob to (file, its place under the output folder). Brackets in existing paths are names."""
    if not text:
        raise TADiSRError("There is no '': an input is empty.")
    path = Path(text)
    if path.is_dir():
        return [(p, p.relative_to(path)) for p in sorted(walk_files(path, plan))]
    if path.is_file():
        return [(path, Path(path.name))]
    if path.exists():
        raise TADiSRError(f"{text} is a pipe or a device, expected a file: save it to one first.")
    matches = glob.glob(literal_start(text), recursive=True) or glob.glob(text.replace("[", "[[]"), recursive=True)
    if not matches:
        raise TADiSRError(f"There is no {text}.")
    return [(p, Path(p.name)) for p in map(Path, sorted(matches)) if p.is_file()]


def walk_files(folder: Path, plan: Plan) -> Iterator[Path]:
    """Everything below a folder that is no folder, also behind links to folders, each of which is entered once."""

    def note(error: OSError) -> None:
        plan.leave_out(Path(error.filename), CLOSED)

    entered = set()
    for top, folders, names in os.walk(folder, onerror=note, followlinks=True):
        place = os.path.realpath(top)
        if place in entered:
            folders.clear()
            continue
        entered.add(place)
        yield from (Path(top, name) for name in names)


def literal_start(text: str) -> str:
    """Escape the first parts of a glob that exist by that very name."""
    parts = Path(text).parts
    for count in range(len(parts), 0, -1):
        start = Path(*parts[:count])
        if start.exists():
            return os.path.join(glob.escape(str(start)), *parts[count:])
    return text
