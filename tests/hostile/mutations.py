"""Hostile files as hypothesis strategies. Each draws a mutation (JSON) and writes it beside a good file's bytes."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

Write = Callable[[Path], None]  # makes the hostile file at a path

NUMBERS = st.sampled_from(
    [0, -1, 1, 2, 3, 7, 64, 255, 4096, 10**5, 10**9, 10**12, 2**31, 2**63, 2**64, 1e308, 0.5, -0.0, 1e-300]
)
VALUES = st.one_of(
    NUMBERS, st.none(), st.booleans(), st.text(max_size=6), st.just([]), st.just({}), st.lists(NUMBERS, max_size=3),
    st.just([[1]]), st.just({"a": 1}), st.just("x" * 5000), st.just("\x00"), st.just("../../etc/passwd"),
)  # fmt: skip


def draw_cases(strategy: st.SearchStrategy[Any], count: int, start: int) -> list[Any]:
    """`count` values of a strategy, the same ones for the same seed."""
    found: list[Any] = []

    @seed(start)
    @settings(
        max_examples=count, phases=[Phase.generate], database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found[:count]


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A safetensors file's header and its tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, body: bytes, *, length: int | None = None, text: bytes | None = None) -> bytes:
    raw = json.dumps(header).encode() if text is None else text
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + body


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@st.composite
def safetensors(draw: st.DrawFn, good: bytes) -> tuple[str, Write]:
    """A mutation of a safetensors file, of one of a dozen kinds."""
    header, body = split(good)
    names = sorted(name for name in header if name != "__metadata__")
    kind = draw(st.sampled_from(
        ["length", "text", "row", "offsets", "shape", "dtype", "data", "truncated", "foreign", "metadata", "config", "missing",
         "place", "bits"]
    ))  # fmt: skip
    header = copy.deepcopy(header)
    name = draw(st.sampled_from(names))
    row = header[name]
    if kind == "length":
        return kind, _bytes(join(header, body, length=draw(st.integers(0, 2**64 - 1) | st.integers(0, 10**9))))
    if kind == "text":
        raw = bytearray(json.dumps(header).encode())
        texts = [
            nested(100_000),
            b'{"a":' * 50_000,
            b"{}",
            b"[]",
            b"null",
            b'"x"',
            b"{" + b'"a":{},' * 1_000_000,
            b"\xff" * 50,
        ]
        if draw(st.booleans()):
            return kind, _bytes(join(None, body, text=draw(st.sampled_from(texts))))
        for _ in range(draw(st.integers(1, 4))):
            raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
        return kind, _bytes(join(None, body, text=bytes(raw)))
    if kind == "row":
        header[name] = draw(VALUES)
    elif kind == "offsets":
        row["data_offsets"] = draw(
            st.lists(NUMBERS, min_size=0, max_size=3)
            | st.just([row["data_offsets"][0] + 1, row["data_offsets"][1]])
            | st.just([row["data_offsets"][1], row["data_offsets"][0]])
            | st.just([row["data_offsets"][0] - 4, row["data_offsets"][1] - 4])
            | st.just([float(x) for x in row["data_offsets"]])
        )
    elif kind == "shape":
        row["shape"] = draw(
            st.lists(NUMBERS, max_size=5) | VALUES | st.just([*row["shape"], 1]) | st.just(row["shape"][::-1])
            | st.just([-x for x in row["shape"]]) | st.just([float(x) for x in row["shape"]])
        )  # fmt: skip
    elif kind == "dtype":
        row["dtype"] = draw(
            st.sampled_from(["F64", "F16", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F4", "", "BF16", "C64"]) | VALUES
        )
    elif kind == "data":
        changed = bytearray(body)
        begin, end = row["data_offsets"]
        value = draw(
            st.sampled_from(
                [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\xff\xff\xff\xff", b"\x00\x7e"]
            )
        )
        place = begin + draw(st.integers(0, max(0, end - begin - len(value)))) // 4 * 4
        changed[place : place + len(value)] = value
        return kind, _bytes(join(header, bytes(changed[: len(body)])))
    elif kind == "bits":
        changed = bytearray(good)
        for _ in range(draw(st.integers(1, 20))):
            changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
        return kind, _bytes(bytes(changed))
    elif kind == "truncated":
        return kind, _bytes(good[: draw(st.integers(0, len(good) - 1) | st.integers(0, 300))])
    elif kind == "metadata":
        metadata = header.get("__metadata__", {})
        if draw(st.booleans()):
            header["__metadata__"] = draw(VALUES | st.just(5))
        else:
            metadata[draw(st.sampled_from(sorted(metadata) or ["a"]))] = draw(
                VALUES | st.sampled_from(["null", "[]", "5", "{", '{"digest": 5}', "NaN", nested(50_000).decode()])
            )
            header["__metadata__"] = metadata
    elif kind == "config":
        metadata = header.get("__metadata__", {})
        if "tadisr.config" not in metadata:
            return "missing", _bytes(join({name: header[name]}, body))
        config = json.loads(metadata["tadisr.config"])
        _change(config, draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=3)), draw(VALUES))
        metadata["tadisr.config"] = json.dumps(config)
    elif kind == "missing":
        if draw(st.booleans()):
            del header[name]
        else:
            header[draw(st.sampled_from(["x", "unet.x", "prompt.y", "decoder.text.z"]))] = row
    elif kind == "foreign":
        return kind, _bytes(draw(st.sampled_from(FOREIGN)))
    else:
        return kind, draw(st.sampled_from([_folder, _link_to_itself, _link_to_nothing, _link_outside, _fifo]))
    return kind, _bytes(join(header, body))


def _change(table: dict[str, Any], path: list[int], value: Any) -> None:
    """Set one value of a nested table, chosen by numbers."""
    keys = sorted(table)
    key = keys[path[0] % len(keys)]
    if isinstance(table[key], dict) and table[key] and len(path) > 1:
        _change(table[key], path[1:], value)
    else:
        table[key] = value


class _Run:
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/tadisr_hostile_code_ran",)


FOREIGN = [
    b"", b"\x00", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"<!DOCTYPE html><html>404</html>" * 9,
    b"PK\x03\x04" + b"x" * 99, pickle.dumps(_Run()), pickle.dumps({"a": 1}, 2), b"GGUF\x03\x00\x00\x00" * 9, b"\x00" * 4096,
    b"\xff" * 4096, b"\x89PNG\r\n\x1a\n" + b"x" * 99, b"{" * 4096, (2).to_bytes(8, "little") + b"{}",
]  # fmt: skip


def _bytes(data: bytes) -> Write:
    return lambda path: path.write_bytes(data) and None


def _folder(path: Path) -> None:
    path.mkdir()


def _link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing.safetensors")


def _link_outside(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _fifo(path: Path) -> None:
    os.mkfifo(path)
