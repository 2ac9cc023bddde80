"""Files: what is written comes back; what is wrong gets one clear sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tadisr import CheckpointError, TADiSR, load
from tadisr.checkpoints import adapter


@pytest.fixture
def file(compact: TADiSR, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    adapter.save_checkpoint(
        compact, path, training={"steps": 7, "data": {"kind": "rendered"}, "seed": 1, "commit": "abc"}
    )
    return path


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], object]) -> None:
    with safe_open(path, "pt") as opened:
        header = dict(opened.metadata())
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, header)


def test_a_saved_model_loads_as_the_same_model(compact: TADiSR, file: Path) -> None:
    image = torch.rand(1, 3, 32, 48)
    loaded = load(file)
    with torch.inference_mode():
        assert torch.equal(loaded(image).image, compact(image).image)
    assert loaded.file == str(file) and compact.file is None
    header = adapter.read_header(file)
    assert header.config == compact.config
    assert header.training["steps"] == 7
    assert header.base == {}
    assert header.bytes == file.stat().st_size


def test_keys_and_header_are_promises(file: Path) -> None:
    with safe_open(file, "pt") as opened:
        assert {n.split(".")[0] for n in opened.keys()} == {"unet", "vae", "text_attention", "decoder", "prompt"}  # noqa: SIM118
        header = opened.metadata()
    assert header["tadisr.format"] == "1"
    assert json.loads(header["tadisr.config"])["name"] == "compact"
    assert {"tadisr.base", "tadisr.training"} < header.keys()


def test_half_precision_files_load_as_fp32(compact: TADiSR, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    adapter.save_checkpoint(compact, path, dtype=torch.float16)
    assert load_file(path)["prompt.embedding"].dtype == torch.float16
    assert load(path).dtype == torch.float32
    assert load(path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"no file /nowhere/x\.safetensors"):
        load("/nowhere/x.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 100, 5000])
def test_a_truncated_file_is_refused(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load(file)


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not one of TADiSR's"):
        load(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        load(path)


def test_a_newer_format_is_refused(file: Path) -> None:
    rewrite(file, lambda _, header: header.update({"tadisr.format": "9"}))
    with pytest.raises(CheckpointError, match="format 9, this version reads 1"):
        load(file)


def test_a_header_that_says_nonsense(file: Path) -> None:
    rewrite(file, lambda _, header: header.update({"tadisr.config": "{"}))
    with pytest.raises(CheckpointError, match="cannot read"):
        load(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("unet.conv_in.weight"), "lacks conv_in.weight"),
        (lambda t: t.update({"unet.more": torch.zeros(1)}), "unknown tensor more"),
        (lambda t: t.update({"else.more": torch.zeros(1)}), "knows nothing of"),
        (lambda t: t.update({"unet.conv_in.bias": torch.zeros(5)}), r"conv_in.bias is \(5,\)"),
    ],
)
def test_tensors_that_do_not_fit(file: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str) -> None:
    rewrite(file, lambda tensors, _: change(tensors))
    with pytest.raises(CheckpointError, match=message):
        load(file)


def test_writing_is_whole_or_not_at_all(compact: TADiSR, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fail(_tensors: object, path: str, _header: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        adapter.save_checkpoint(compact, file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_the_shipped_model_is_small_and_says_what_it_is() -> None:
    from tadisr import COMPACT

    header = adapter.read_header(COMPACT)
    assert header.config.name == "compact"
    assert header.bytes <= 24 * 2**20
    assert {t.dtype for t in load_file(COMPACT).values() if t.is_floating_point()} == {torch.float16}
    assert header.training["steps"] > 0 and header.training["data"] and header.training["commit"] != "unknown"
    assert COMPACT.with_name("compact.md").is_file()  # the model card
