"""Sources of images: data sets in their published layouts, folders, and rendered text.

for item in map(open_source("textseg", Path("TextSeg"), split="train").__getitem__, range(10)): ...
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import files
from .base import Item, Source, SourceError
from .ctr import CTR
from .files import Entry, Files
from .rendered import Procedural, RenderedLines

__all__ = ["KINDS", "LICENCES", "Entry", "Files", "Item", "Source", "SourceError", "open_source"]

# What is known of the owners' terms. Where their text has not been read for this table it says so; their pages count.
UNREAD = "see the owners' page, its text was not verified here"
LICENCES = {
    "folder": "whatever the images' owner allows",
    "lsdir": f"said to be for academic research, the images their photographers' (from Flickr); {UNREAD}",
    "ctr": f"said to be for research; made of RCTW, ReCTS, LSVT, ArT, CTW and MTWI, each with its own terms; {UNREAD}",
    "ctr-derived": f"as CTR, from which the crops are; {UNREAD}",
    "textseg": f"said to be for non-commercial research, on request; {UNREAD}",
    "bts": f"said to be for academic use, after signing an agreement; {UNREAD}",
    "real-ce": f"said to be for academic research only; {UNREAD}",
    "rendered": "none needed, beyond the fonts' and the photographs' own",
    "procedural": "none needed",
}

# Sets of files: how they are listed, and what the numbers in their masks mean.
LISTED: dict[str, tuple[Callable[..., list[Entry]], Any]] = {
    "folder": (files.list_folder, None),
    "lsdir": (files.list_lsdir, None),
    "textseg": (files.list_textseg, files.select_textseg_strokes),
    "bts": (files.list_bts, files.select_strokes),
    "real-ce": (files.list_real_ce, None),
    "ctr-derived": (files.list_ctr_derived, None),
}
MADE: dict[str, Callable[..., Source]] = {"rendered": RenderedLines, "procedural": Procedural}
KINDS = (*LISTED, "ctr", *MADE)


def open_source(kind: str, path: str | Path | None = None, *, name: str | None = None, **options: Any) -> Source:
    """Open the data set at `path` as one of KINDS; see the functions of `files` and the classes here for their options.

    name: its name in provenance; None: kind and folder name. Raises SourceError, ConfigError.

    name: what provenance calls it; else the kind and the folder's name. Raises SourceError, ConfigError.
    """
    if kind not in KINDS:
        raise SourceError(f"There is no kind of source {kind!r}; known are {', '.join(KINDS)}.")
    if (path is None) != (kind in MADE):
        raise SourceError(f"A source of kind {kind} {'takes no path' if kind in MADE else 'needs a path'}.")
    name = name or (kind if path is None else f"{kind}:{Path(path).name}")
    licence = LICENCES[kind]
    try:
        if kind in MADE:
            return MADE[kind](name=name, licence=licence, **options)
        assert path is not None
        if kind == "ctr":
            return CTR(Path(path), name=name, licence=licence, **options)
        listing, strokes = LISTED[kind]
        entries = listing(files.require_folder(Path(path)), **options)
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise SourceError(f"A source of kind {kind} does not know an option: {error}.") from error
    if not entries:
        raise SourceError(f"{path} has no images, as a source of kind {kind}.")
    return Files(entries, name=name, kind=kind, licence=licence, strokes=strokes)
