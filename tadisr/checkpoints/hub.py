"""Files of the hub, fetched only when they are asked for: listed, resumed, checked.

A file grows under a name of its own that holds its digest, and takes its real name when size and digest are right. So
what is there under its real name is whole, and an interrupted download, also by the end of the process, resumes.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import TADiSRError
from ..file_digest import hash_file

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
KOLORS_LICENCE = (
    "Kolors' own model licence (MODEL_LICENSE of Kwai-Kolors/Kolors): research is free, commercial use needs a "
    "registration with Kuaishou."
)
BASE = "Give this folder as --base; in ComfyUI it belongs into models/diffusers."
RELEASE_LICENCE = "code MIT; the weights for research, and under their base's licence too"


@dataclass(frozen=True)
class Source:
    """A repository of the hub, and which of its files are wanted, part by part."""

    repo: str
    licence: str
    parts: dict[str, tuple[str, ...]]  # a part's name -> globs, each of which must find a file
    default: tuple[str, ...]  # parts fetched unless others are asked for
    digests: dict[str, str]  # published sha256 by file
    after: str  # what to do with the files
    folder: str = "."  # where they go unless --to says otherwise


SOURCES = {
    "kolors": Source(
        repo="Kwai-Kolors/Kolors-diffusers",
        licence=KOLORS_LICENCE,
        parts={
            "unet": ("unet/config.json", "unet/*.fp16.safetensors"),
            "vae": ("vae/config.json", "vae/*.fp16.safetensors"),
            "text_encoder": (
                "text_encoder/config.json", "text_encoder/*fp16*.safetensors", "text_encoder/*.index*fp16*.json",
            ),
            "tokenizer": ("tokenizer/*",),
        },
        default=("unet", "vae"),
        digests={},
        after=BASE,
        folder="Kolors",
    ),
    "cogview4": Source(
        repo="zai-org/CogView4-6B",
        licence="Apache-2.0",
        parts={
            "transformer": ("transformer/config.json", "transformer/*.safetensors", "transformer/*.index.json"),
            "vae": ("vae/config.json", "vae/*.safetensors"),
            "text_encoder": ("text_encoder/config.json", "text_encoder/*.safetensors", "text_encoder/*.index.json"),
            "tokenizer": ("tokenizer/*",),
        },
        default=("transformer", "vae"),
        digests={},
        after=BASE,
        folder="CogView4-6B",
    ),
    "kolors-release": Source(
        repo="huqiming513/TADiSR-Models",
        licence=RELEASE_LICENCE,
        parts={"weights": ("tadisr_kolors_ftsr_526000.pkl",)},
        default=("weights",),
        digests={
            "tadisr_kolors_ftsr_526000.pkl": "4baef8b1fad319caf7d606c82539035c6fc9483c81f94601377c64813251e7f7",
        },
        after="Turn it into an adapter with python -m tadisr import-release.",
    ),
    "cogview4-release": Source(
        repo="huqiming513/TADiSR-Models",
        licence=RELEASE_LICENCE,
        parts={"weights": ("tadisr_cogview4_realce_17500.pkl",)},
        default=("weights",),
        digests={
            "tadisr_cogview4_realce_17500.pkl": "7cec8d0917305037cbafcb1b1bf81062add1613b561f5d7e2d1e599fe0baf5e0",
        },
        after="Turn it into an adapter with python -m tadisr import-release.",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Remote:
    """A file of the hub as its listing tells it."""

    path: str
    size: int
    digest: str  # sha256 of a large file, git's blob digest (sha1) of a small one

    @property
    def is_sha256(self) -> bool:
        return len(self.digest) == 64

    def local(self, folder: Path) -> Path:
        return folder / self.path

    def part(self, folder: Path) -> Path:
        """Return the path of the incomplete file; another version of the file has another one."""
        local = self.local(folder)
        return local.with_name(f".{local.name}.{self.digest[:12]}.part")


@dataclass(frozen=True)
class Plan:
    """The files of a source that are wanted, and those that are missing."""

    repo: str
    commit: str
    endpoint: str
    licence: str
    wanted: list[Remote]
    missing: list[Remote]

    def count_bytes_left(self, folder: Path) -> int:
        """Count the bytes that are still to be downloaded."""
        return sum(file.size - size_of(file.part(folder)) for file in self.missing)


def plan_download(
    source: Source, folder: Path, *, parts: tuple[str, ...] | None = None, repo: str | None = None, endpoint: str | None = None
) -> Plan:  # fmt: skip
    """List a source's files on the hub, and compare them with those in `folder` by size and digest.

    parts: other ones than the source's default. repo: another one with the same files. endpoint: a mirror of the hub;
    None is what HF_ENDPOINT says. Raises TADiSRError where the hub cannot be asked, or has not got the files.
    """
    hub = import_hub()
    endpoint = str(endpoint or hub.constants.ENDPOINT).rstrip("/")
    repo = repo or source.repo
    with explain_errors(f"{repo} cannot be listed at {endpoint}"):
        info = hub.HfApi(endpoint=endpoint).model_info(repo, files_metadata=True)
    listed = {sibling.rfilename: sibling for sibling in info.siblings or []}
    names: list[str] = []
    for glob in [glob for part in parts or source.default for glob in source.parts[part]]:
        found = [name for name in sorted(listed) if matches_glob(name, glob)]
        if not found:
            raise TADiSRError(f"{repo} at {endpoint} has no {glob} (any more): name another one with --repo.")
        names += found
    wanted = [check_listed(listed[name], source.digests) for name in dict.fromkeys(names)]
    missing = [file for file in wanted if not is_complete(file, folder)]
    tag = getattr(info.card_data, "license", None)
    licence = f"{source.licence} (the hub's tag: {tag})" if tag else source.licence
    return Plan(repo, info.sha or "main", endpoint, licence, wanted, missing)


def matches_glob(name: str, glob: str) -> bool:
    """Match a path against a glob as a shell does: a star does not match a slash."""
    path, pattern = PurePosixPath(name), PurePosixPath(glob)
    same = len(path.parts) == len(pattern.parts)
    return same and all(map(fnmatch.fnmatchcase, path.parts, pattern.parts))


def check_listed(sibling: Any, digests: dict[str, str]) -> Remote:
    """Check a listed file. Raises TADiSRError for a path outside the folder, or a digest other than the published one."""
    path = PurePosixPath(sibling.rfilename)
    if path.is_absolute() or ".." in path.parts or "\\" in sibling.rfilename or ":" in sibling.rfilename:
        raise TADiSRError(f"The hub lists a file {sibling.rfilename!r} outside its repository: nothing is downloaded.")
    listed = sibling.lfs.sha256 if sibling.lfs else sibling.blob_id
    published = digests.get(sibling.rfilename)
    if published and listed != published:
        raise TADiSRError(
            f"The hub's {sibling.rfilename} has the digest {listed}, the authors published {published}: it is another "
            "file, nothing is downloaded."
        )
    if not listed or sibling.size is None:
        raise TADiSRError(f"The hub tells neither size nor digest of {sibling.rfilename}: use another --endpoint.")
    return Remote(sibling.rfilename, sibling.size, listed)


def download_missing(plan: Plan, folder: Path) -> None:
    """Download the missing files one after another, each with a progress bar.

    Raises TADiSRError for a full disk, a lost connection (run again: it resumes) and a wrong digest.

    Raises TADiSRError for a full disk, a connection that does not come back (run again: it goes on) and a wrong digest.
    """
    check_space(plan, folder)
    for file in plan.missing:
        download_file(plan, file, folder)


def check_space(plan: Plan, folder: Path) -> None:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, plan.count_bytes_left(folder)
    if needed > free:
        raise TADiSRError(
            f"{format_size(needed)} are to come, the disk of {existing} has {format_size(free)} free: make room, or give "
            "another folder with --to."
        )


def download_file(plan: Plan, file: Remote, folder: Path) -> None:
    hub = import_hub()
    part = file.part(folder)
    with explain_errors(f"{file.path} could not be fetched from {plan.endpoint}", folder):
        part.parent.mkdir(parents=True, exist_ok=True)
        if size_of(part) > file.size:
            part.unlink()
        with part.open("ab") as stream:
            begun = stream.tell()
            if begun < file.size or file.size == 0:
                hub.file_download.http_get(
                    hub.hf_hub_url(plan.repo, file.path, revision=plan.commit, endpoint=plan.endpoint),
                    stream,
                    resume_size=begun,
                    headers=hub.utils.build_hf_headers(),
                    expected_size=file.size,
                    displayed_filename=file.path,
                )
    found = hash_file(part, git_blob=not file.is_sha256)
    if found != file.digest:
        part.unlink()
        raise TADiSRError(
            f"{file.path} came with the digest {found}, the hub says {file.digest}: what came was removed. Run the "
            "command again, or use another --endpoint."
        )
    os.replace(part, file.local(folder))


# ---- helpers --------------------------------------------------------------------------------------------------------


def import_hub() -> Any:
    """Import huggingface_hub, which only downloads need."""
    import huggingface_hub
    from huggingface_hub import constants, file_download, utils  # noqa: F401 (as attributes of the package)

    return huggingface_hub


@contextmanager
def explain_errors(what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn errors of the disk, the connection or huggingface_hub (whose classes differ by version) into TADiSRError."""
    try:
        yield
    except TADiSRError:
        raise
    except Exception as error:
        raise TADiSRError(f"{what}: {explain_error(error, folder)}") from error


def explain_error(error: Exception, folder: Path | None) -> str:
    name = type(error).__name__
    if isinstance(error, OSError) and error.errno in FULL:
        return f"the disk of {folder} is full. What came is kept: make room and run the command again."
    if name == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set. Unset it, or copy the files by hand."
    if name == "GatedRepoError":
        return "its owner gives access on request only. Ask for it on its page, then log in with `hf auth login`."
    if name == "RepositoryNotFoundError":
        return "there is no such repository, or it is private. Name another one with --repo."
    line = (str(error).strip() or name).splitlines()[0]
    return f"{line} What came is kept: run the command again, it resumes there." if folder else line


def is_complete(file: Remote, folder: Path) -> bool:
    local = file.local(folder)
    return (
        size_of(local) == file.size and local.is_file() and hash_file(local, git_blob=not file.is_sha256) == file.digest
    )


def size_of(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def format_size(count: int) -> str:
    unit, name = next(((u, n) for u, n in ((1e9, "GB"), (1e6, "MB")) if count >= u / 10), (1e3, "kB"))
    return f"{count / unit:.2f} {name}"
