"""Files told by their headers: whole, in shards, and every way in which one can be broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shards import write_shards
from torch import Tensor

from tadisr import CheckpointError
from tadisr.checkpoints.tensor_index import Table, find_table, read_table

STEM = "diffusion_pytorch_model"


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
    return {f"layer.{i}": torch.randn(3, 5 + i).to(kind) for i, kind in enumerate(kinds)} | {
        "count": torch.tensor([7, 8]),
        "scalar": torch.tensor(2.0),
        "none": torch.zeros(0, 4),
    }


def everything(table: Table, stays: bool | None) -> dict[str, Tensor]:
    """stays None: as they are; else the tensors are copied before the next one is asked for."""
    names = {f"new.{name}": name for name in table.entries}
    if stays is None:
        return dict(table.read(names))
    return {name: tensor if stays else tensor.clone() for name, tensor in table.read(names, lambda *_: stays)}


@pytest.mark.parametrize("stays", [True, False, None])
def test_what_is_read_is_what_safetensors_reads(tensors: dict[str, Tensor], tmp_path: Path, stays: bool | None) -> None:
    save_file(tensors, tmp_path / "a.safetensors", {"who": "me"})
    table = read_table(tmp_path / "a.safetensors")
    assert table.metadata == {"who": "me"}
    assert table.bytes == sum(t.nbytes for t in tensors.values())
    read, expected = everything(table, stays), load_file(tmp_path / "a.safetensors")
    assert read.keys() == {f"new.{name}" for name in expected}
    for name, tensor in expected.items():
        got = read[f"new.{name}"]
        assert got.dtype == tensor.dtype and got.shape == tensor.shape
        assert torch.equal(got.float(), tensor.float())


def test_a_mapped_tensor_may_be_written_to_without_harm_to_the_file(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    everything(read_table(tmp_path / "a.safetensors"), True)["new.layer.0"].zero_()
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_shards_with_and_without_their_index(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    index = write_shards(tmp_path / "unet", tensors, variant=".fp16")
    for path in (tmp_path, tmp_path / "unet", index):
        read = everything(find_table(path, "unet"), True)
        assert all(torch.equal(read[f"new.{k}"].float(), v.float()) for k, v in tensors.items())
    index.unlink()
    assert find_table(tmp_path, "unet").entries.keys() == tensors.keys()
    (tmp_path / "unet" / f"{STEM}.fp16-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has 2 of 3 shards, number 2 is missing"):
        find_table(tmp_path, "unet")


def test_the_variant_that_serves_the_number_type(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    for name in ("", ".fp16", ".ema"):
        save_file({"a": torch.zeros(1), f"is{name}": torch.zeros(1)}, tmp_path / f"{STEM}{name}.safetensors")
    assert "is.fp16" in find_table(tmp_path, "unet").entries
    assert "is" in find_table(tmp_path, "unet", dtype=torch.float32).entries
    (tmp_path / f"{STEM}.safetensors").unlink()
    assert "is.fp16" in find_table(tmp_path, "unet", dtype=torch.float32).entries


def test_a_hub_cache_folder(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    blob = tmp_path / "models--Kwai-Kolors--Kolors-diffusers" / "blobs" / "0123"
    unet = blob.parents[1] / "snapshots" / "abcd" / "unet"
    blob.parent.mkdir(parents=True)
    unet.mkdir(parents=True)
    save_file(tensors, blob)
    (unet / f"{STEM}.fp16.safetensors").symlink_to(blob)
    assert find_table(blob.parents[1], "unet").entries.keys() == tensors.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>404</html>" * 9, "a web page"),
        (b"PK\x03\x04" + b"x" * 99, "a pickle"),
        (b"\x80\x02}q\x00(X\x01\x00\x00\x00" * 9, "a pickle"),
        (b"GGUF\x03\x00\x00\x00" * 9, "a GGUF file"),
        (b"", "not a whole safetensors file"),
        (b"half a file", "not a whole safetensors file"),
        ((20).to_bytes(8, "little") + b'{"a": [1, 2, 3]}    ', "its header has a list for a"),
        ((20).to_bytes(8, "little") + b"nothing but words   ", "its header is no JSON"),
    ],
)
def test_what_is_no_safetensors_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_table(path)


def test_a_header_of_640_bytes_is_no_pickle(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(640).encode()
    (tmp_path / "a.safetensors").write_bytes((640).to_bytes(8, "little") + header + b"\0\0\0\0")
    assert read_table(tmp_path / "a.safetensors").entries["a"].shape == (1,)


def test_a_download_that_was_cut_off_says_how_much_there_is(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    index = write_shards(tmp_path / "unet", tensors)
    shard = tmp_path / "unet" / f"{STEM}-00002-of-00003.safetensors"
    whole = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=f"it has {whole - 3:,} bytes of the {whole:,} that its header promises"):
        find_table(tmp_path, "unet")
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"lacks .*-00002-of-00003.safetensors, 1 of the 3 files"):
        find_table(tmp_path, "unet")
    save_file({"other": torch.zeros(1)}, shard)
    with pytest.raises(CheckpointError, match="two different downloads are mixed"):
        find_table(tmp_path, "unet")
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no index of shards"):
        find_table(tmp_path, "unet")


def test_folders_with_nothing_of_use_say_what_they_have(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no file or folder"):
        find_table(tmp_path / "nowhere", "unet")
    with pytest.raises(CheckpointError, match=r"no unet/ with a .* in it, but nothing"):
        find_table(tmp_path, "unet")
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(CheckpointError, match=r"no unet/ with a .* in it, but tokenizer"):
        find_table(tmp_path, "unet")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / f"{STEM}.bin").touch()
    with pytest.raises(CheckpointError, match=f"only the pickle {STEM}.bin"):
        find_table(tmp_path, "unet")
    (tmp_path / "unet" / f"{STEM}.safetensors.incomplete").touch()
    with pytest.raises(CheckpointError, match="the download has not ended"):
        find_table(tmp_path, "unet")
