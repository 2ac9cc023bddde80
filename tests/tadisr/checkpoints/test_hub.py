"""Downloads against a server that speaks the hub's API: what is wanted comes, whole; what goes wrong is one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import COMMIT, Hub
from repository import ROOT

from tadisr import COMPACT
from tadisr.checkpoints import hub as download
from tadisr.cli import main

KOLORS = "Kwai-Kolors/Kolors-diffusers"
RELEASE = "huqiming513/TADiSR-Models"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"
STEMS = {"transformer": "diffusion_pytorch_model", "text_encoder": "model"}


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


FILES = {
    "README.md": b"# Kolors", "model_index.json": b"{}", "scheduler/scheduler_config.json": b"{}",
    "unet/config.json": b'{"unet": 1}', UNET: noise(900_000), "unet/diffusion_pytorch_model.safetensors": noise(10_000, 1),
    "vae/config.json": b"{}", "vae/diffusion_pytorch_model.fp16.safetensors": noise(50_000, 2),
    "text_encoder/config.json": b"{}", "text_encoder/model.safetensors.index.fp16.json": b'{"weight_map": {}}',
    "text_encoder/model.fp16-00001-of-00002.safetensors": noise(20_000, 3),
    "text_encoder/model.fp16-00002-of-00002.safetensors": noise(20_000, 4),
    "text_encoder/pytorch_model-00001-of-00002.bin": noise(20_000, 5),
    "tokenizer/tokenizer.model": noise(8_000, 6), "tokenizer/vocab.txt": noise(8_000, 6),
    "tokenizer/tokenizer_config.json": b"{}",
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({KOLORS: dict(FILES)}) as server:
        yield server


def run(hub: Hub, to: Path, *more: str, what: str = "kolors") -> int:
    return main(["download", what, "--to", str(to), "--endpoint", hub.url, "--yes", *more])


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def gets(hub: Hub, name: str) -> list[str | None]:
    """The Range of every request for a file's bytes."""
    return [ranged for method, path, ranged in hub.requests if method == "GET" and path.endswith(f"/{name}")]


def test_only_the_default_parts_are_downloaded(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(hub, tmp_path) == 0
    wanted = {"unet/config.json", UNET, "vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors"}
    assert written(tmp_path) == wanted
    assert all((tmp_path / name).read_bytes() == FILES[name] for name in wanted)
    assert {path for _, path, _ in hub.requests if "/resolve/" in path} == {
        f"/{KOLORS}/resolve/{COMMIT}/{name}" for name in wanted
    }
    said = capsys.readouterr().out
    assert "commercial use needs a registration" in said and "apache-2.0" in said  # the licence, before anything comes
    assert "0.95 MB to fetch" in said and "their digests are right" in said and "models/diffusers" in said


def test_only_the_named_parts_are_downloaded(hub: Hub, tmp_path: Path) -> None:
    assert run(hub, tmp_path, "--parts", "text_encoder", "tokenizer") == 0
    assert written(tmp_path) == {
        n for n in FILES if n.startswith(("text_encoder/", "tokenizer/")) and not n.endswith(".bin")
    }


def test_cogview4_is_downloaded_into_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout of CogView4-6B: shards without a variant's name; into a folder of its name where none is given."""
    shards = [f"{part}/{stem}-0000{i}-of-00002.safetensors" for part, stem in STEMS.items() for i in (1, 2)]
    indices = [f"{part}/{stem}.safetensors.index.json" for part, stem in STEMS.items()]
    large = [*shards, "vae/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"]
    small = [*indices, *(f"{part}/config.json" for part in (*STEMS, "vae")), "tokenizer/tokenizer_config.json"]
    files = {name: noise(9_000, i) for i, name in enumerate(large)} | dict.fromkeys([*small, "model_index.json"], b"{}")
    monkeypatch.chdir(tmp_path)
    with Hub({"zai-org/CogView4-6B": files}) as hub:
        command = ["download", "cogview4", "--endpoint", hub.url, "--yes"]
        assert main(command) == 0
        base = {name for name in files if name.startswith(("transformer/", "vae/"))}
        assert written(tmp_path / "CogView4-6B") == base
        alone = [sys.executable, "-m", "tadisr", *command, "--parts", "text_encoder", "tokenizer"]
        done = subprocess.run(alone, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0 and "HTTP Request" not in done.stderr  # the library's own talk
    assert written(tmp_path / "CogView4-6B") == files.keys() - {"model_index.json"}


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(hub, tmp_path) == 0
    (tmp_path / "vae" / "config.json").write_bytes(b"[]")  # as large, but not it
    hub.requests.clear()
    capsys.readouterr()
    assert run(hub, tmp_path) == 0
    assert [path for _, path, _ in hub.requests if "/resolve/" in path] == [
        f"/{KOLORS}/resolve/{COMMIT}/vae/config.json"
    ]
    assert (tmp_path / "vae" / "config.json").read_bytes() == b"{}"
    assert f"{UNET}  (there)" in capsys.readouterr().out


BIG = "weights.bin"  # larger than the pieces of 10 MB that huggingface_hub writes
ANY = download.Source(repo="a/b", licence="none", parts={"all": (BIG,)}, default=("all",), digests={}, after="")


def begins(hub: Hub, name: str) -> list[int]:
    return [int((ranged or "bytes=0-").removeprefix("bytes=").rstrip("-")) for ranged in gets(hub, name)]


def test_a_cut_connection_resumes(tmp_path: Path) -> None:
    with Hub({"a/b": {BIG: noise(45_000_000)}}, cut={BIG: 2}) as hub:
        download.download_missing(download.plan_download(ANY, tmp_path, endpoint=hub.url), tmp_path)
        first, second, third = begins(hub, BIG)
    assert 0 == first < second < third < 45_000_000
    assert (tmp_path / BIG).read_bytes() == noise(45_000_000)


def test_another_run_resumes_where_the_first_was_cut(tmp_path: Path) -> None:
    """Half comes, then the server is down: one sentence. Later only the rest is asked for."""
    with Hub({"a/b": {BIG: noise(45_000_000)}}, cut={BIG: 1}, dies=True) as hub:
        plan = download.plan_download(ANY, tmp_path, endpoint=hub.url)
        with pytest.raises(download.TADiSRError, match=r"could not be fetched .* What came is kept"):
            download.download_missing(plan, tmp_path)
        (part,) = tmp_path.iterdir()
        kept = part.stat().st_size
        assert part.name != BIG and 10_000_000 < kept < 25_000_000
        assert part.read_bytes() == noise(45_000_000)[:kept]
        hub.down.clear()
        hub.requests.clear()
        plan = download.plan_download(ANY, tmp_path, endpoint=hub.url)
        assert plan.count_bytes_left(tmp_path) == 45_000_000 - kept
        download.download_missing(plan, tmp_path)
        assert begins(hub, BIG) == [kept]
    assert written(tmp_path) == {BIG} and (tmp_path / BIG).read_bytes() == noise(45_000_000)


def test_a_new_version_does_not_go_on_from_the_old_one(hub: Hub, tmp_path: Path) -> None:
    old = tmp_path / "unet" / f".{Path(UNET).name}.{'0' * 12}.part"
    old.parent.mkdir()
    old.write_bytes(b"another version")
    assert run(hub, tmp_path) == 0
    assert (tmp_path / UNET).read_bytes() == FILES[UNET] and gets(hub, UNET) == [None]


@pytest.mark.parametrize("name", [UNET, "unet/config.json"])
def test_a_file_with_a_wrong_digest_is_removed(
    hub: Hub, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.lies[name] = bytes(len(FILES[name]))
    assert run(hub, tmp_path) == 1
    assert f"{name} came with the digest" in (said := capsys.readouterr().err) and "what came was removed" in said
    assert not any(Path(name).name in other for other in written(tmp_path))
    hub.lies.clear()
    assert run(hub, tmp_path) == 0
    assert (tmp_path / name).read_bytes() == FILES[name]


def test_a_full_disk_keeps_what_came(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The system refuses to write on at 400 kB of 900; with room again it goes on from there."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        assert run(hub, tmp_path) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "is full. What came is kept" in capsys.readouterr().err
    (part,) = [name for name in written(tmp_path) if name.endswith(".part")]
    assert (tmp_path / part).stat().st_size == 400_000
    hub.requests.clear()
    assert run(hub, tmp_path) == 0
    assert begins(hub, UNET) == [400_000] and (tmp_path / UNET).read_bytes() == FILES[UNET]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_no_space_left_on_the_device(hub: Hub, tmp_path: Path) -> None:
    source = download.SOURCES["kolors"]
    plan = download.plan_download(source, tmp_path, endpoint=hub.url)
    file = next(file for file in plan.missing if file.path == UNET)
    file.part(tmp_path).parent.mkdir()
    file.part(tmp_path).symlink_to("/dev/full")
    with pytest.raises(download.TADiSRError, match="is full"):
        download.download_file(plan, file, tmp_path)


def test_too_little_space_is_told_before(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.sizes[UNET] = 10**18
    assert run(hub, tmp_path) == 1
    assert "free: make room" in capsys.readouterr().err
    assert not gets(hub, UNET) and not written(tmp_path)


def test_nothing_comes_unasked(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["download", "kolors", "--to", str(tmp_path), "--endpoint", hub.url]
    assert main(command) == 1  # nobody to ask
    assert "give --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(command) == 1
    assert "Nothing was downloaded" in capsys.readouterr().out
    assert not written(tmp_path) and not any("/resolve/" in path for _, path, _ in hub.requests)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert main(command) == 0 and len(written(tmp_path)) == 4


def test_progress_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
    """The command asks, then draws a bar a file with its share and its bytes; what came before counts from the start."""
    fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))
    part = tmp_path / "unet" / f".{Path(UNET).name}.{hashlib.sha256(FILES[UNET]).hexdigest()[:12]}.part"
    part.parent.mkdir()
    part.write_bytes(FILES[UNET][:450_000])
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))  # rows and columns
    command = [sys.executable, "-m", "tadisr", "download", "kolors", "--to", str(tmp_path), "--endpoint", hub.url]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=ROOT) as process:
        os.close(its)
        os.write(ours, b"y\n")
        said = b""
        with contextlib.suppress(OSError):  # how Linux tells the end
            while piece := os.read(ours, 4096):
                said += piece
    os.close(ours)
    drawn = said.decode()
    assert process.returncode == 0 and "Go on? [y/N]" in drawn, drawn
    bars = re.findall(r"\r([^\r]+): +(\d+%)\|([^|]+)\| (\S+) \[", drawn)
    assert {(share, count) for _, share, _, count in bars} >= {
        ("0%", "0.00/11.0"), ("100%", "11.0/11.0"), ("50%", "450k/900k"), ("100%", "900k/900k"), ("100%", "50.0k/50.0k"),
    }, drawn  # fmt: skip
    assert bars[0][0] == "unet/config.json" and all(
        (set(bar) == {"█"}) == (share == "100%") for _, share, bar, _ in bars
    )
    assert (tmp_path / UNET).read_bytes() == FILES[UNET]


def test_the_environment_is_honoured(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT names the hub, HF_HUB_OFFLINE keeps it from being asked."""
    command = [sys.executable, "-m", "tadisr", "download", "kolors", "--yes", "--to", str(tmp_path)]
    offline = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=offline)
    assert done.returncode == 1 and not hub.requests
    assert f"cannot be listed at {hub.url}: HF_HUB_OFFLINE is set" in done.stderr and "Traceback" not in done.stderr


def test_the_authors_release_is_held_to_its_published_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tadisr_kolors_ftsr_526000.pkl"
    assert download.SOURCES["kolors-release"].digests[name].startswith("4baef8b1fad319ca")
    with Hub({RELEASE: {name: noise(9_000), "README.md": b"x"}}) as hub:
        assert run(hub, tmp_path, what="kolors-release") == 1
        assert "the authors published 4baef8b1" in capsys.readouterr().err and not gets(hub, name)
        digest = hashlib.sha256(noise(9_000)).hexdigest()
        monkeypatch.setitem(download.SOURCES["kolors-release"].digests, name, digest)
        assert run(hub, tmp_path, what="kolors-release") == 0
        assert "import-release" in capsys.readouterr().out
        assert run(hub, tmp_path, what="cogview4-release") == 1
        assert "has no tadisr_cogview4_realce_17500.pkl" in capsys.readouterr().err
    assert written(tmp_path) == {name}


def test_errors_of_the_hub_get_one_sentence(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(hub, tmp_path, "--repo", "no/where") == 1
    assert "no such repository, or it is private" in capsys.readouterr().err
    assert run(hub, tmp_path, "--parts", "unet", "nose") == 1
    assert "no part 'nose'; known are unet, vae, text_encoder, tokenizer" in capsys.readouterr().err
    hub.gated = True
    assert run(hub, tmp_path) == 1
    assert "access on request only" in capsys.readouterr().err
    assert main(["download", "kolors", "--to", str(tmp_path), "--endpoint", "http://127.0.0.1:9", "--yes"]) == 1
    assert "cannot be listed at http://127.0.0.1:9" in (said := capsys.readouterr().err) and "Traceback" not in said
    assert not written(tmp_path)


@pytest.mark.parametrize("name", ["../x/a", "/x/a", "a\\..\\..\\b", "C:a"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    source = download.Source(
        repo="a/b", licence="", parts={"all": ("*", "*/*", "*/*/*")}, default=("all",), digests={}, after=""
    )
    files = {name: b"1", "a": b"1", "a/b": b"1", "a/b/c": b"1"}
    with Hub({"a/b": files}) as hub, pytest.raises(download.TADiSRError, match="outside its repository"):
        download.plan_download(source, tmp_path, endpoint=hub.url)


def test_the_compact_model_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "compact"]) == 0
    assert str(COMPACT) in capsys.readouterr().out
    assert main(["download", "compact", "--to", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / COMPACT.name).read_bytes() == COMPACT.read_bytes()
    shutil.rmtree(tmp_path / "new")
