"""Hostile release pickles, images and YAML configs, as hypothesis strategies like those of mutations.py."""

from __future__ import annotations

import copy
import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from mutations import FOREIGN, VALUES, Write, _bytes, _change, nested
from PIL import Image

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
FORMATS = ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO"]


@st.composite
def release(draw: st.DrawFn, good: bytes, state: dict[str, Any]) -> tuple[str, Write]:
    """A mutation of a release's pickle: its bytes, its entries, or the values of its tables."""
    kind = draw(
        st.sampled_from(["bits", "truncated", "foreign", "entry", "name", "tensor", "tensor", "bytearray", "code"])
    )
    if kind == "bits":
        changed = bytearray(good)
        for _ in range(draw(st.integers(1, 20))):
            changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
        return kind, _bytes(bytes(changed))
    if kind == "truncated":
        return kind, _bytes(good[: draw(st.integers(0, len(good) - 1))])
    if kind == "foreign":
        return kind, _bytes(draw(st.sampled_from(FOREIGN)))
    if kind in ("bytearray", "code"):
        call = b"c__builtin__\nbytearray\n" if kind == "bytearray" else b"cos\nsystem\n"
        argument = b"L10000000000L\n" if kind == "bytearray" else b"Vtouch /tmp/tadisr_hostile_code_ran\n"
        return kind, _bytes(_archive(b"\x80\x02" + call + argument + b"\x85R."))
    changed = copy.copy(state)
    tables = sorted(name for name, value in changed.items() if isinstance(value, dict))
    if kind == "entry":
        name = draw(st.sampled_from(sorted(changed)))
        changed[name] = draw(VALUES | st.just(torch.tensor(4)) | st.just([5]) | st.just(b"x" * 100) | st.just({1: 2}))
    elif kind == "name":
        table = draw(st.sampled_from(tables))
        changed[table] = dict(changed[table])
        changed[draw(st.sampled_from([5, "x", table]))] = changed[table]
        changed[table][draw(st.sampled_from([3, "x", (1, 2)]))] = torch.zeros(2)
    else:
        table = draw(st.sampled_from(tables))
        changed[table] = dict(changed[table])
        name = draw(st.sampled_from(sorted(changed[table])))
        old = changed[table][name]
        changed[table][name] = draw(
            st.sampled_from(
                [
                    torch.empty(old.shape, device="meta"), torch.zeros(old.shape).to_sparse(), old.long(), old.double(),
                    old.half(),
                    old * float("nan"), old.flatten(), old[:1], torch.zeros(0), "x", None, 5, [old], old.to(torch.complex64),
                    old.expand(2, *old.shape), torch.nn.Parameter(old), old.to(torch.float8_e4m3fn),
                ]
            )
        )  # fmt: skip
    buffer = io.BytesIO()
    torch.save(changed, buffer)
    return kind, _bytes(buffer.getvalue())


def _archive(data: bytes) -> bytes:
    """A file of torch.save's layout around a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _png(width: int, height: int, data: bytes, *, depth: int = 8, color: int = 2) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@st.composite
def image(draw: st.DrawFn) -> tuple[str, Write]:
    """A small image in any format and mode, truncated, with bits flipped, or one that claims to be huge."""
    kind = draw(st.sampled_from(["good", "truncated", "bits", "bomb", "foreign", "size"]))
    if kind == "foreign":
        return kind, _bytes(draw(st.sampled_from(FOREIGN)))
    if kind == "bomb":
        sides = draw(
            st.sampled_from(
                [(60_000, 60_000), (2**31 - 1, 1), (1, 2**31 - 1), (30_000, 30_000), (2**32 - 1, 2**32 - 1)]
            )
        )
        return kind, _bytes(_png(*sides, zlib.compress(b"\0" * draw(st.sampled_from([10, 10**6, 10**7])))))
    if kind == "size":
        depth, color = draw(st.sampled_from([1, 2, 4, 8, 16, 0, 7])), draw(st.integers(0, 7))
        return kind, _bytes(
            _png(
                draw(st.integers(-2, 3)), draw(st.integers(-2, 3)), zlib.compress(b"\0" * 99), depth=depth, color=color
            )
        )
    mode, form = draw(st.sampled_from(MODES)), draw(st.sampled_from(FORMATS))
    width, height = draw(st.sampled_from([(1, 1), (1, 40), (40, 1), (9, 13), (24, 16)]))
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)  # the same in every draw
    picture = Image.fromarray(noise)
    try:
        picture = picture.convert(mode)
        buffer = io.BytesIO()
        frames = [picture] * draw(st.integers(1, 3))
        picture.save(
            buffer, form, **({"save_all": True, "append_images": frames[1:]} if form in ("GIF", "TIFF", "WEBP") else {})
        )
    except (OSError, ValueError, KeyError):
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    if kind == "truncated":
        data = data[: draw(st.integers(0, len(data) - 1))]
    elif kind == "bits":
        for _ in range(draw(st.integers(1, 12))):
            data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return kind, _bytes(bytes(data))


ODD_YAML = [
    b"", b"- a\n- b\n", b"a: [", b"\xff\xfe\x00", b"!!python/object/apply:os.system ['touch /tmp/tadisr_hostile_code_ran']",
    b"a: &a [1]\nb: *c\n", b"? [1, 2]\n: 3\n", b"a: 2001-99-99\n", b"\t\tx: 1", nested(5000), b"inherit: 5\n",
    b"inherit: ../..\n",
    b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c, *%c]\n" % (c, c, c - 1, c - 1, c - 1) for c in range(98, 122)),
]  # fmt: skip


@st.composite
def config(draw: st.DrawFn, good: dict[str, Any]) -> tuple[str, Write]:
    """A config with one value changed, or a file that is no config."""
    if draw(st.integers(0, 3)) == 0:
        return "odd", _bytes(draw(st.sampled_from(ODD_YAML)))
    table = copy.deepcopy(good)
    value = draw(VALUES | st.sampled_from([float("nan"), float("inf"), -5, {"preset": 5}, {"preset": "x"}]))
    _change(table, draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3)), value)
    return "value", _bytes(yaml.safe_dump(table, allow_unicode=True).encode())


def write_state(path: Path) -> dict[str, Any]:
    """A tiny release at a path, and what it holds."""
    import released
    from entry_points import tiny_release

    tiny = tiny_release()
    released.save(path, tiny, *released.pieces(tiny))
    return torch.load(path, map_location="cpu", weights_only=True)
