"""The segmenter's commands: fine-tuning that can be cut anywhere, and masks for whole data sets, resumable."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from repository import CONFIGS
from small_sam_ts import TINY, split, tiny

from tadisr.errors import CheckpointError, ConfigError, TADiSRError
from train.command_errors import Stopped
from train.data.sources import open_source
from train.run_lock import lock_folder
from train.segmentation import fit, open_segmenter, quantize_mask
from train.segmentation.__main__ import main, parse_part
from train.segmentation.fit import FitConfig, Squares, compute_iou, compute_loss
from train.segmentation.infer import write_masks
from train.segmentation.sam_ts import checkpoint
from train.segmentation.sam_ts.network import VARIANTS, Prediction
from train.segmentation.score import score_segmenter


def config(tmp_path: Path, **changes: Any) -> FitConfig:
    sam = tmp_path / "sam.pth"
    if not sam.exists():
        torch.save(split(tiny(1))[1], sam)
    fields: dict[str, Any] = {
        "out": str(tmp_path / "run"),
        "sources": [{"kind": "rendered", "count": 6, "height": [30, 40]}],
        "sam": str(sam),
        "model": TINY,
        "epochs": 1,
        "workers": 0,
        "checkpoint_every": 3,
        "log_every": 1,
    }
    return FitConfig(**(fields | changes))


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# ---- fit ------------------------------------------------------------------------------------------------------------


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit.train_segmenter(config(tmp_path, out=str(tmp_path / "whole")))
    killed = config(tmp_path, out=str(tmp_path / "killed"))
    write = fit.Log.write

    def die(self: Any, step: int, values: dict[str, float]) -> None:
        write(self, step, values)
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit.Log, "write", die)
        fit.train_segmenter(killed)
    assert [row["step"] for row in rows(tmp_path / "killed")] == [1, 2, 3, 4, 5]
    again = checkpoint.load_sam_ts(fit.train_segmenter(killed)).state_dict()
    assert [row["step"] for row in rows(tmp_path / "killed")] == [1, 2, 3, 4, 5, 6]
    start = checkpoint.from_sam(killed.sam or "", config=TINY).state_dict()
    changed = set()
    for name, tensor in checkpoint.load_sam_ts(whole).state_dict().items():
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=1e-5)
        if not torch.equal(tensor, start[name]) and not checkpoint.is_new(name):
            changed.add(name.split(".")[0])
    assert changed == {"mask_decoder"}  # SAM's encoder stays SAM's
    header = checkpoint._metadata(whole)
    assert json.loads(header["tadisr.training"])["steps"] == 6


def cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, at: int, by: Callable[[], object]) -> FitConfig:
    """A run of six steps that `by` happens to at a step's end."""
    settings, write = config(tmp_path, checkpoint_every=2), fit.Log.write

    def happen(self: Any, step: int, values: dict[str, float]) -> None:
        write(self, step, values)
        if step == at:
            by()

    with monkeypatch.context() as patch:
        patch.setattr(fit.Log, "write", happen)
        with pytest.raises((Stopped, KeyboardInterrupt)):
            fit.train_segmenter(settings)
    return settings


def die() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_its_step(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(number)
    settings = cut(tmp_path, monkeypatch, at=3, by=lambda: signal.raise_signal(number))
    state = torch.load(tmp_path / "run" / "last" / "state.pt", weights_only=True)
    assert state["step"] == 3 and signal.getsignal(number) is before  # not a step that is saved anyway
    again = checkpoint.load_sam_ts(fit.train_segmenter(settings)).state_dict()
    whole = checkpoint.load_sam_ts(fit.train_segmenter(config(tmp_path, out=str(tmp_path / "whole")))).state_dict()
    assert all(torch.allclose(again[name], tensor, atol=1e-6, rtol=1e-5) for name, tensor in whole.items())


@pytest.mark.parametrize("damage", [b"", b"no checkpoint", None])
def test_a_damaged_state_gives_way_to_the_one_before(
    damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = cut(tmp_path, monkeypatch, at=5, by=die)
    newest, before = (tmp_path / "run" / "last" / name for name in fit.STATES)
    data = newest.read_bytes()
    newest.write_bytes(data[: len(data) // 2] if damage is None else damage)
    (tmp_path / "run" / "log.jsonl").open("ab").write(b"\xff{damaged\n")
    fit.train_segmenter(settings)
    assert "The run resumes from the state before it." in caplog.text and "1 of 6 lines are damaged" in caplog.text
    assert [row["step"] for row in rows(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    for path in (newest, before):
        path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"No state in .* is intact: choose another out"):
        fit.train_segmenter(settings)


def test_another_model_and_a_second_run_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = cut(tmp_path, monkeypatch, at=5, by=die)
    state = torch.load(tmp_path / "run" / "last" / "state.pt", weights_only=True)
    state["learned"].popitem()
    torch.save(state, tmp_path / "run" / "last" / "state.pt")
    with pytest.raises(CheckpointError, match="does not fit the config"):
        fit.train_segmenter(settings)
    with lock_folder(tmp_path / "run", "run"), pytest.raises(ConfigError, match="Another run is writing to"):
        fit.train_segmenter(settings)


def test_squares_are_seeded_cover_an_epoch_and_keep_masks_on_strokes(tmp_path: Path) -> None:
    source = open_source("rendered", count=6, height=(30, 40))
    squares = Squares([source, source], config(tmp_path, scale=(1.0, 1.0), tint=0.0), 128)
    first, again = squares[3], Squares([source, source], config(tmp_path, scale=(1.0, 1.0), tint=0.0), 128)[3]
    assert torch.equal(first["image"], again["image"]) and first["image"].shape == (3, 128, 128)
    assert len(squares) == 12
    inks = [tuple(squares[i]["mask"].sum((1, 2)).tolist()) for i in range(24)]
    assert sorted(inks[:12]) == sorted(inks[12:]) and inks[:12] != inks[12:]  # each once an epoch, in another order
    item = source[0]
    assert item.mask is not None
    image, mask = squares._square(item.image, item.mask, np.random.default_rng(0))
    assert mask[-1].max() == 0 and np.allclose(image[-1], [123.675, 116.28, 103.53])  # padded below
    scale = 128 / max(item.mask.shape)
    assert mask.sum() == pytest.approx(item.mask.mean() / 255 * item.mask.size * scale**2, rel=0.1)


def test_the_objective_is_hi_sams(tmp_path: Path) -> None:
    truth = torch.zeros(1, 1, 8, 8)
    truth[..., :4] = 1
    logits = torch.where(truth > 0.5, 30.0, -30.0)
    low = torch.where(truth[..., ::4, ::4] > 0.5, 30.0, -30.0)
    one = torch.ones(1, 1)
    perfect = compute_loss(Prediction(low, logits, one, one), truth, config(tmp_path))
    assert perfect["high_focal"] < 1e-6 and perfect["high_dice"] < 1e-3 and perfect["high_iou"] == 0
    assert set(perfect) == {f"{m}_{t}" for m in ("low", "high") for t in ("focal", "dice", "iou")} | {"total"}
    blind = compute_loss(Prediction(low * 0, logits * 0, one, one * 0.25), truth, config(tmp_path))
    # focal at p = 1/2: (alpha or 1 - alpha) / 4 * ln 2, its mean over both halves 0.5 / 4 * ln 2; times 20
    assert blind["high_focal"].item() == pytest.approx(20 * 0.125 * np.log(2), rel=1e-5)
    assert blind["high_dice"].item() == pytest.approx(1 - (2 * 16 + 1) / (32 + 32 + 1), rel=1e-5)
    assert blind["low_iou"] == 1 and blind["high_iou"] == 0.0625  # nothing found: the true IoU is 0
    assert compute_iou(logits > 0, torch.roll(truth, 2, -1) > 0.5).item() == pytest.approx(2 / 6)


def test_validation_and_overrides(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    config(tmp_path)
    table = {
        "out": str(tmp_path / "run"),
        "sources": [{"kind": "rendered", "count": 2}],
        "validation": [{"kind": "rendered", "count": 2, "seed": 9}],
        "sam": str(tmp_path / "sam.pth"),
        "model": {"width": 32, "depth": 3, "heads": 2, "global_blocks": [1], "image": 128, "window": 3}
        | {"channels": 32, "hidden": 64, "prompts": 4},
        "workers": 0,
    }
    path.write_text(json.dumps(table))
    assert main(["fit", str(path), "epochs=1", "scale=[1.0, 1.5]"]) == 0
    (last,) = (row for row in rows(tmp_path / "run") if "fgIoU" in row)
    assert last["step"] == 2 and 0 <= last["fgIoU"] <= last["F"] <= 1
    for overrides, said in (
        (["model=vit_x"], "no SAM-TS 'vit_x'"),
        (["sam=null"], "Training starts from"),
        (["epoch=3"], "unknown field 'epoch'"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(["fit", str(path), *overrides])


def test_images_without_masks_cannot_teach(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(TADiSRError, match=r"a\.png has no mask"):
        fit.train_segmenter(config(tmp_path, sources=[{"kind": "folder", "path": str(tmp_path)}]))


@pytest.mark.slow
def test_it_learns(tmp_path: Path) -> None:
    source = {"kind": "rendered", "count": 4, "height": [60, 61]}
    fit.train_segmenter(config(tmp_path, sources=[source], epochs=75, batch=2, lr=2e-3, scale=(1.0, 1.0), tint=0.0))
    log = [row["total"] for row in rows(tmp_path / "run")]
    assert np.mean(log[-10:]) < 0.75 * np.mean(log[:10])


def test_the_two_commands_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/training/data.md's sequence, with the configs as they are, on tiny weights and sets in their owners' layouts."""
    lmdb = pytest.importorskip("lmdb")
    from source_files import mask, picture, png, write

    from train.synthesis.__main__ import main as synthesis

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(VARIANTS, "vit_l", TINY)
    (tmp_path / "models").mkdir()
    for weights, name in zip(split(tiny(3)), ("sam_tss_l_textseg.pth", "sam_vit_l_0b3195.pth"), strict=True):
        torch.save(weights, tmp_path / "models" / name)
    for half in ("train", "val", "test"):
        write(tmp_path / f"data/TextSeg/{half}_images/{half}.jpg", picture(1))
        write(tmp_path / f"data/TextSeg/{half}_gt/{half}.png", mask(0, 100))
    for half in ("TRAIN", "VAL"):
        write(tmp_path / f"data/BTS/{half}/image/{half}.jpg", picture(2))
        write(tmp_path / f"data/BTS/{half}/semantic_label/{half}.png", mask(0, 255))
    write(tmp_path / "data/LSDIR/0001000/0000001.png", picture(3))
    (tmp_path / "data/CTR/scene_train").mkdir(parents=True)
    environment = lmdb.open("data/CTR/scene_train")
    with environment.begin(write=True) as transaction:
        for key, value in (("image", png(picture(4, 90, 30))), ("label", b"EXIT")):
            transaction.put(f"{key}-000000001".encode(), value)
        transaction.put(b"num-samples", b"1")
    environment.close()

    assert main(["fit", str(CONFIGS / "segmenter.yaml"), "epochs=1", "precision=no", "workers=0"]) == 0
    assert synthesis(["build", str(CONFIGS / "ftsr.yaml"), "--until", "masks", "workers=0"]) == 0
    (made,) = (tmp_path / "data/FTSR/work/masks").rglob("*.png")
    found = open_segmenter("runs/segmenter/model.safetensors")([picture(4, 90, 30)])
    assert np.array_equal(np.asarray(Image.open(made)), quantize_mask(found[0]))


# ---- infer ----------------------------------------------------------------------------------------------------------


class Dark:
    """Finds what is dark, and counts its work."""

    name, digest = "dark", "d1"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        self.seen += len(images)
        return [1 - image.mean(-1).astype(np.float32) / 255 for image in images]


def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("a.jpg", "b/c.d.png", "e.png", "f.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10 + i, 8), (40 * i, 40 * i, 40 * i)).save(tmp_path / "set" / name)
    (tmp_path / "set" / "e.png").write_bytes(b"broken")
    return tmp_path / "set"


def test_masks_are_written_once_and_broken_images_put_aside(tmp_path: Path) -> None:
    source, out, segmenter = open_source("folder", folder(tmp_path)), tmp_path / "out", Dark()
    assert write_masks(segmenter, source, out, limit=2) == {"written": 2, "skipped": 0, "broken": 0}
    assert write_masks(segmenter, source, out, batch=2) == {"written": 1, "skipped": 2, "broken": 1}
    assert write_masks(segmenter, source, out) == {"written": 0, "skipped": 4, "broken": 0} and segmenter.seen == 3
    found = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    assert found == ["mask/a.png", "mask/b/c.d.png", "mask/f.png"]
    assert np.asarray(Image.open(out / "mask" / "a.png")).tolist() == np.full((8, 10), 255).tolist()
    (row,) = (json.loads(line) for line in (out / "broken-0.jsonl").read_text().splitlines())
    assert row["key"] == "e.png" and "cannot be read" in row["reason"]
    again = open_source("folder", tmp_path / "set", masks=str((out / "mask").resolve()))
    assert again[0].mask is not None  # what it writes is what the folder source reads


def test_parts_share_the_work_and_soft_masks_keep_shades(tmp_path: Path) -> None:
    source, out = open_source("folder", folder(tmp_path)), tmp_path / "out"
    counts = [write_masks(Dark(), source, out, threshold=None, part=(i, 2)) for i in range(2)]
    assert [c["written"] for c in counts] == [1, 2] and counts[0]["broken"] == 1
    assert np.asarray(Image.open(out / "mask" / "b" / "c.d.png"))[0, 0] == 255 - 40
    other = Dark()
    other.digest = "d2"
    with pytest.raises(TADiSRError, match="made with digest d1, now it is d2"):
        write_masks(other, source, out, threshold=None)
    assert parse_part("1/4") == (1, 4)
    with pytest.raises(TADiSRError, match="expected I/N"):
        parse_part("4/4")


def test_the_infer_command_on_an_lmdb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lmdb = pytest.importorskip("lmdb")
    from source_files import png

    environment = lmdb.open(str(tmp_path / "ctr"))
    item = open_source("rendered", count=1, height=(40, 41))[0]
    with environment.begin(write=True) as transaction:
        transaction.put(b"image-000000001", png(item.image))
        transaction.put(b"label-000000001", (item.label or "").encode())
        transaction.put(b"num-samples", b"1")
    environment.close()
    command = ["infer", "compact", "-o", str(tmp_path / "out"), "--kind", "ctr", "--path", str(tmp_path / "ctr")]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"written": 1, "skipped": 0, "broken": 0}
    mask = np.asarray(Image.open(tmp_path / "out" / "mask" / "000000001.png"))
    assert mask.shape == item.image.shape[:2] and set(np.unique(mask)) == {0, 255}


def test_the_score_command_counts_pixels_over_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two images of 8 x 10: half of the first's mask is found, the second's is found and as much again."""
    for name, dark, drawn in (("a", 5, 10), ("b", 10, 5)):
        picture, mask = np.full((8, 10, 3), 255, np.uint8), np.zeros((8, 10), np.uint8)
        picture[:, :dark], mask[:, :drawn] = 0, 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    source = open_source("folder", tmp_path, masks="masks")
    assert score_segmenter(Dark(), [source], 9) == {"fgIoU": 80 / 160, "F": 160 / 240}
    assert score_segmenter(Dark(), [source], 1) == {"fgIoU": 0.5, "F": 2 / 3}
    bare = ["--kind", "folder", "--path", str(tmp_path), "--option"]
    with pytest.raises(SystemExit, match="has no mask to judge by"):
        main(["score", "compact", *bare, "labels=null"])
    rendered = ["--kind", "rendered", "--option", "count=1", "--option", "height=[40,41]"]
    assert main(["score", "compact", *rendered, "--across", "96"]) == 0
    assert 0.3 < json.loads(capsys.readouterr().out)["fgIoU"] < 1
    checkpoint.save_sam_ts(tiny(5), tmp_path / "s.safetensors")
    with pytest.raises(SystemExit, match="--across is for a model of this project"):
        main(["score", str(tmp_path / "s.safetensors"), *rendered, "--across", "96"])
