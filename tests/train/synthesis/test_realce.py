"""Real-CE's alignment: pairs of known shift, scale, turn and parallax, made here and put right or put out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tadisr.errors import TADiSRError
from train.data.pairs import open_pairs
from train.data.sources import open_source
from train.run_lock import lock_folder
from train.synthesis.__main__ import main
from train.synthesis.realce.align import Limits, align_pair, compute_luma
from train.synthesis.realce.prepare import crop_covered, list_pairs, prepare_data_set

SIDE = 384
MARGIN = 64


def scene(seed: int) -> np.ndarray:
    """Soft clouds, hard-edged plates and words on them, (SIDE + 2 MARGIN, same, 3) uint8."""
    rng = np.random.default_rng(seed)
    size = SIDE + 2 * MARGIN
    picture = np.full((size, size, 3), 128, np.float32)
    for cells in (4, 16, 64):
        noise = rng.normal(0, 60 / np.sqrt(cells), (cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    picture = picture.clip(0, 255).astype(np.uint8)
    for _ in range(40):
        x, y, w, h = (int(v) for v in rng.integers((0, 0, 20, 12), (size, size, 120, 60)))
        cv2.rectangle(picture, (x, y), (x + w, y + h), rng.uniform(0, 255, 3).tolist(), -1)
        word = "".join(rng.choice(list("ABCDEFGHKMNPRSTUXYZ2345678"), 4))
        cv2.putText(
            picture, word, (x + 3, y + h - 4), cv2.FONT_HERSHEY_SIMPLEX, h / 40, rng.uniform(0, 255, 3).tolist(), 2
        )
    return picture


def seen_by(
    picture: np.ndarray, *, shift: tuple[float, float] = (0, 0), scale: float = 1, turn: float = 0
) -> np.ndarray:
    """What a camera sees whose middle is off by `shift`, and to which things are `scale` times as large: (SIDE, SIDE, 3)."""
    middle = (len(picture) - 1) / 2
    matrix = cv2.getRotationMatrix2D((middle, middle), -turn, scale)
    matrix[:, 2] += np.array(shift) - MARGIN
    return cv2.warpAffine(picture, matrix, (SIDE, SIDE), flags=cv2.INTER_CUBIC)


def coarse(picture: np.ndarray, seed: int = 0) -> np.ndarray:
    """A quarter of the size, darker, with noise: the 13 mm image."""
    small = cv2.resize(picture, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA).astype(np.float32)
    noise = np.random.default_rng(seed).normal(0, 2, small.shape)
    return (small * 0.85 + 8 + noise).clip(0, 255).astype(np.uint8)


def upscaled(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    ("shift", "scale", "turn"),
    [((0, 0), 1, 0), ((3.5, -2), 1, 0), ((-21, 14), 1, 0), ((6, 5), 1.03, 0), ((-4, 2), 0.98, 1.5), ((0, 0), 1, -3)],
)
def test_a_known_shift_scale_and_turn_is_found_and_undone(
    shift: tuple[float, float], scale: float, turn: float
) -> None:
    picture = scene(1)
    hr, lr = seen_by(picture), upscaled(coarse(seen_by(picture, shift=shift, scale=scale, turn=turn)))
    found, _ = align_pair(compute_luma(hr), compute_luma(lr))
    assert found.shift == pytest.approx(shift, abs=0.6) and found.scale == pytest.approx(scale, abs=0.003)
    assert found.rotation == pytest.approx(turn, abs=0.25)
    assert found.find_fault(Limits()) == "" and found.residual is not None and found.residual < 1


def test_parallax_is_put_out() -> None:
    """The near half of the scene moves, the far one does not: no similarity undoes that."""
    picture, other = scene(2), scene(2)
    half = len(picture) // 2
    other[half:] = np.roll(other[half:], 14, axis=1)
    hr, lr = seen_by(picture), upscaled(coarse(seen_by(other)))
    found, _ = align_pair(compute_luma(hr), compute_luma(lr))
    assert "residual" in found.find_fault(Limits()) and found.residual is not None and found.residual > 5


def test_another_scene_and_a_blank_wall_are_put_out() -> None:
    hr = seen_by(scene(3))
    found, _ = align_pair(compute_luma(hr), compute_luma(upscaled(coarse(seen_by(scene(4))))))
    assert found.find_fault(Limits()).startswith(("correlation", "nothing to measure"))
    wall = np.full((SIDE, SIDE, 3), 200, np.uint8)
    found, _ = align_pair(compute_luma(wall), compute_luma(upscaled(coarse(wall))))
    assert "nothing to measure" in found.find_fault(Limits()) and found.residual is None


def test_alignment_is_the_same_every_time() -> None:
    picture = scene(5)
    hr, lr = compute_luma(seen_by(picture)), compute_luma(upscaled(coarse(seen_by(picture, shift=(5, 1), scale=1.02))))
    assert align_pair(hr, lr)[0] == align_pair(hr, lr)[0]


def test_what_both_show_is_cut_out() -> None:
    seen = np.ones((40, 60), bool)
    seen[:5], seen[:, 57:], seen[5, 0] = False, False, False
    top, bottom, left, right = crop_covered(seen)
    assert seen[top:bottom, left:right].all() and (bottom - top) * (right - left) >= 32 * 56
    assert (bottom - top) % 4 == (right - left) % 4 == 0


# ---- the whole set --------------------------------------------------------------------------------------------------


def write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="JPEG", quality=95)


@pytest.fixture(scope="module")
def real_ce(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/: straight, shifted, of another scene, broken; val/: turned, and one without its 13 mm image."""
    root = tmp_path_factory.mktemp("Real-CE")
    a, b, c = scene(11), scene(12), scene(13)
    for part, name, near, far in (
        ("train", "DSC1", seen_by(a), seen_by(a)),
        ("train", "DSC2", seen_by(b), seen_by(b, shift=(9, -7))),
        ("train", "DSC3", seen_by(a), seen_by(c)),
        ("val", "DSC5", seen_by(c), seen_by(c, turn=2)),
    ):
        write(root / part / "52mm" / f"{name}.JPG", near)
        write(root / part / "13mm" / f"{name}.JPG", coarse(far))
    for focal in ("13mm", "52mm"):
        (root / "train" / focal / "DSC4.JPG").write_bytes(b"broken")
    write(root / "val" / "52mm" / "DSC6.JPG", seen_by(a))
    return root


class Bright:
    name, digest = "bright", "b1"

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: list[np.ndarray]) -> list[np.ndarray]:
        self.seen += len(images)
        return [image.mean(-1).astype(np.float32) / 255 for image in images]


def test_the_set_is_made_ready(real_ce: Path, tmp_path: Path) -> None:
    segmenter = Bright()
    assert prepare_data_set(real_ce, tmp_path, segmenter=segmenter) == {"train": 2, "eval": 1, "out": 2}
    assert (tmp_path / "aligned_list_train.txt").read_text() == "DSC1.JPG\nDSC2.JPG\n"
    assert (tmp_path / "aligned_list_eval.txt").read_text() == "DSC5.JPG\n"
    found = {row["name"]: row for row in map(json.loads, (tmp_path / "alignment.jsonl").read_text().splitlines())}
    assert found["DSC2"]["shift"] == pytest.approx([9, -7], abs=0.6) and "cannot be read" in found["DSC4"]["reason"]
    for name in ("DSC1", "DSC2", "DSC5"):
        lr, hr = (
            np.asarray(Image.open(tmp_path / f"{focal}_aligned_1024" / f"{name}.JPG"), np.float32)
            for focal in ("13mm", "52mm")
        )
        mask = np.asarray(Image.open(tmp_path / "mask-52mm-bts-1024-v2" / f"{name}.png"))
        assert lr.shape == hr.shape and mask.shape == hr.shape[:2] and min(hr.shape[:2]) > SIDE * 0.85
        again, _ = align_pair(compute_luma(hr.astype(np.uint8)), compute_luma(lr.astype(np.uint8)))
        assert again.residual is not None and again.residual < 1 and np.hypot(*again.shift) < 0.6
    assert Image.open(tmp_path / "misaligned.jpg").size[0] == 4 * 320
    source = open_source("real-ce", tmp_path, names="aligned_list_eval.txt")
    assert len(source) == 1 and source[0].mask is not None
    (pair,) = open_pairs(tmp_path, split="test")  # as training and judging read it
    assert (
        pair.key == "DSC5" and pair.is_upscaled and pair.mask is not None and pair.lr.shape[0] * 4 == pair.hr.shape[0]
    )


def test_a_killed_run_resumes_and_other_settings_are_refused(real_ce: Path, tmp_path: Path) -> None:
    first = Bright()
    counts = prepare_data_set(real_ce, tmp_path, segmenter=first)
    journal = tmp_path / "alignment.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:1]) + lines[1][:20])  # killed while writing the second
    second = Bright()
    assert prepare_data_set(real_ce, tmp_path, segmenter=second) == counts
    assert (first.seen, second.seen) == (3, 2) and journal.read_text().splitlines(keepends=True) == lines
    (tmp_path / "aligned_list_train.txt").write_text("DSC1.JPG\n")  # mended by hand
    prepare_data_set(real_ce, tmp_path, segmenter=second)
    assert (tmp_path / "aligned_list_train.txt").read_text() == "DSC1.JPG\n"
    with pytest.raises(TADiSRError, match="made with other settings"):
        prepare_data_set(real_ce, tmp_path, segmenter=None)


def test_damaged_lines_are_done_again_and_a_second_run_is_refused(
    real_ce: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts, journal = prepare_data_set(real_ce, tmp_path, segmenter=None), tmp_path / "alignment.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + b"\xff\xfe\n[1]\n{}\n" + b"[" * 100_000 + b"\n" + b"".join(lines[2:]))
    assert prepare_data_set(real_ce, tmp_path, segmenter=None) == counts
    assert "4 of 8 lines are damaged, and removed" in caplog.text
    assert sorted(journal.read_bytes().splitlines(keepends=True)) == sorted(lines)
    (tmp_path / "realce.json").write_bytes(b"{")
    with pytest.raises(TADiSRError, match=r"realce\.json is damaged"):
        prepare_data_set(real_ce, tmp_path, segmenter=None)
    with lock_folder(tmp_path, "build"), pytest.raises(SystemExit, match="Another build is writing to"):
        main(["realce", str(real_ce), "-o", str(tmp_path), "--segmenter", "none"])


def test_a_flat_set_is_split_by_name(tmp_path: Path) -> None:
    for i in range(40):
        for focal in ("13mm", "52mm"):
            (tmp_path / focal).mkdir(exist_ok=True)
            (tmp_path / focal / f"IMG{i}.JPG").write_bytes(b"")
    parts = [p.part for p in list_pairs(tmp_path)]
    assert parts == [p.part for p in list_pairs(tmp_path)] and 15 < parts.count("train") < 35
    (tmp_path / "13mm" / "IMG3.JPG").unlink()
    assert len(list_pairs(tmp_path)) == 39


def test_the_command_lists_aligned_pairs(real_ce: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["realce", str(real_ce), "-o", str(tmp_path), "--segmenter", "none", "--side", "256"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": 2, "train": 2, "eval": 1}
    assert max(Image.open(tmp_path / "52mm_aligned_1024" / "DSC1.JPG").size) == 256
    with pytest.raises(SystemExit, match="There is no folder"):
        main(["realce", str(tmp_path / "nothing"), "-o", str(tmp_path / "out"), "--segmenter", "none"])
