"""The rendered stream and its degradations: seeded, exact masks, the promised ranges."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fonts import FONTS

from tadisr import ConfigError
from train.data.degradation.recipes import (
    PRESETS,
    degrade_bicubic,
    degrade_image,
    degrade_mixture,
    make_gaussian_kernel,
    make_sinc_kernel,
)
from train.data.text_rendering import backgrounds, scenes, strings
from train.data.text_rendering.backgrounds import draw_masonry
from train.data.text_rendering.scenes import SCENES, Page, RenderedText, main

pytestmark = pytest.mark.skipif(not FONTS, reason="no fonts under /usr/share/fonts: install fonts-liberation")


@pytest.fixture(scope="module")
def stream() -> RenderedText:
    return RenderedText(crop=64, seed=3, fonts=FONTS, degradation={"light": 1.0})


def test_samples_are_seeded_and_differ(stream: RenderedText) -> None:
    again = RenderedText(crop=64, seed=3, fonts=FONTS, degradation={"light": 1.0})
    other = RenderedText(crop=64, seed=4, fonts=FONTS, degradation={"light": 1.0})
    for index in (0, 5, 10**9):
        first, second = stream[index], again[index]
        assert all(torch.equal(first[key], second[key]) for key in ("lr", "hr", "mask"))
        assert not torch.equal(first["hr"], other[index]["hr"])
    assert not torch.equal(stream[0]["hr"], stream[1]["hr"])


def test_shapes_and_ranges(stream: RenderedText) -> None:
    text = 0
    for index in range(40):
        sample = stream[index]
        assert [tuple(sample[key].shape) for key in ("lr", "hr", "mask")] == [(3, 16, 16), (3, 64, 64), (1, 64, 64)]
        for tensor in sample.values():
            assert tensor.dtype == torch.float32 and tensor.min() >= 0 and tensor.max() <= 1
        text += bool(sample["mask"].max() > 0.5)
    assert 20 <= text < 40  # most have text, some have none


@pytest.mark.parametrize("kind", SCENES)
def test_the_mask_is_exactly_where_ink_changed_the_image(kind: str, stream: RenderedText) -> None:
    """Every scene: drawn again without its text, the image differs where the mask says, nowhere else."""
    differing = 0
    for seed in range(6):
        pictures = []
        for with_text in (True, False):
            rng = np.random.default_rng(seed)
            page = Page(96, stream, rng)
            if not with_text:
                ink = page.paint_ink
                page.paint_ink = lambda c, color, o, is_text=True, ink=ink: (
                    None if is_text else ink(c, color, o, is_text=False)
                )
            SCENES[kind][0](page, rng)
            pictures.append(page)
        drawn, bare = pictures
        if kind in ("signs",):  # a later line's ground is measured on what lies there: compare the first only
            continue
        changed = np.abs(drawn.picture - bare.picture).max(2) > 1e-4
        assert not (changed & (drawn.mask == 0)).any()
        differing += int(changed.any())
    assert differing or kind in ("plain", "signs")


def test_every_scene_with_text_has_a_mask(stream: RenderedText) -> None:
    for kind in SCENES:
        found = 0
        for seed in range(8):
            rng = np.random.default_rng(seed)
            page = Page(96, stream, rng)
            SCENES[kind][0](page, rng)
            _, mask = page.finish(64, rng)
            found += int(mask.max() > 0.5)
        assert found >= 4 if kind != "plain" else found == 0


def test_a_camera_softens(stream: RenderedText) -> None:
    soft = RenderedText(crop=64, seed=3, fonts=FONTS, degradation={"light": 1.0}, camera=1.0)

    def edges(one: RenderedText) -> float:
        return float(np.mean([(one[i]["hr"][..., 1:] - one[i]["hr"][..., :-1]).abs().max() for i in range(20)]))

    assert edges(soft) < 0.85 * edges(stream)


@pytest.mark.parametrize("kind", [kind for kind in SCENES if kind != "plain"])
def test_text_is_larger_by_its_scale(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_em(scale: float) -> float:
        asked: list[float] = []
        font = Page.draw_font
        monkeypatch.setattr(Page, "draw_font", lambda page, script, em: asked.append(em) or font(page, script, em))
        rng = np.random.default_rng(3)
        SCENES[kind][0](Page(96, RenderedText(crop=64, fonts=FONTS, text_scale=scale), rng), rng)
        monkeypatch.undo()
        return asked[0]

    assert first_em(1.5) == pytest.approx(1.5 * first_em(1))


def test_photographs_are_used_and_missing_folders_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (800, 900, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noise)
    cv2.imwrite(str(tmp_path / "same.jpg"), cv2.resize(noise, (1800, 1600)))
    cv2.imwrite(str(tmp_path / "small.png"), noise[:100, :100])
    stream = RenderedText(crop=64, fonts=FONTS, backgrounds=[tmp_path])
    assert len(stream.photographs) == 1
    with pytest.raises(ConfigError, match="no folder of backgrounds"):
        RenderedText(crop=64, fonts=FONTS, backgrounds=[tmp_path / "none"])
    with pytest.raises(ConfigError, match="No font with Latin letters"):
        RenderedText(crop=64, fonts=[tmp_path])
    with pytest.raises(ConfigError, match="multiple of 16"):
        RenderedText(crop=50, fonts=FONTS)


def test_a_wall_has_joints_through_all_of_it() -> None:
    seen = 0
    for seed in range(12):
        wall = draw_masonry(128, np.random.default_rng(seed))
        assert wall.shape == (128, 128, 3) and wall.dtype == np.float32 and wall.min() >= 0 and wall.max() <= 1
        _, number, counts = np.unique(wall.reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
        assert (counts > 30).sum() > 3  # bricks of several tones
        through = [
            np.mean(there)
            for there in (number.reshape(128, 128) == color for color in np.flatnonzero(counts > 100))
            if np.ptp(np.argwhere(there), axis=0).min() > 115
        ]
        seen += 0 < min(through, default=0) < 0.6
    assert seen >= 8  # the thinnest are all edge: no two pixels alike


def test_so_many_grounds_are_walls(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[int] = []
    monkeypatch.setattr(backgrounds, "draw_masonry", lambda size, rng: built.append(size) or draw_masonry(size, rng))
    shares = []
    for walls in (0.0, 0.5):
        stream = RenderedText(crop=64, fonts=FONTS, walls=walls)
        for i in range(40):
            stream.draw_sample(i)
        shares.append(len(built))
    assert shares[0] == 0 and 10 < shares[1] < 30


def test_a_font_without_the_script_is_not_taken(stream: RenderedText) -> None:
    names = {Path(path).name for path, _ in stream.fonts.get("chinese", [])}
    assert not any(name.startswith(("Liberation", "DejaVu")) for name in names)
    assert any(Path(path).name.startswith(("Liberation", "DejaVu")) for path, _ in stream.fonts["latin"])


def test_strings_have_all_kinds() -> None:
    rng = np.random.default_rng(0)
    text = "".join(strings.draw_line(script, rng) for script in ("latin", "chinese") for _ in range(200))
    assert any(c.isdigit() for c in text) and any("一" <= c <= "鿿" for c in text) and any(c.islower() for c in text)
    assert all(strings.draw_line(script, rng) for script in strings.SCRIPTS for _ in range(20))


@pytest.mark.parametrize("preset", PRESETS)
def test_degradations_give_lr_images_in_range(preset: str) -> None:
    hr = np.random.default_rng(0).random((64, 96, 3)).astype(np.float32)
    one, two = (degrade_image(hr, preset, np.random.default_rng(5)) for _ in range(2))
    assert one.shape == (16, 24, 3) and one.dtype == np.float32
    assert np.array_equal(one, two) and one.min() >= 0 and one.max() <= 1
    for seed in range(15):
        assert np.isfinite(degrade_image(hr, preset, np.random.default_rng(seed))).all()


def test_degrading_keeps_the_image_in_its_place() -> None:
    """No preset shifts: the centre of a blob stays where it was."""
    y, x = np.mgrid[0:128, 0:128]
    blob = np.exp(-((x - 50.0) ** 2 + (y - 70.0) ** 2) / 400).astype(np.float32)[..., None].repeat(3, 2)
    for preset in PRESETS:
        found = []
        for seed in range(12):
            lr = degrade_image(blob, preset, np.random.default_rng(seed)).mean(2)
            weight = np.clip(lr - 0.5, 0, None)
            cy, cx = (np.sum(weight * axis) / weight.sum() for axis in np.mgrid[0:32, 0:32])
            found.append((cx * 4 + 1.5, cy * 4 + 1.5))
        assert np.abs(np.mean(found, 0) - (50, 70)).max() < 1.0, preset


def test_kernels_sum_to_one_and_mixtures_draw_by_weight() -> None:
    for kernel in (
        make_gaussian_kernel(13, 1.0, 2.0, 0.3),
        make_gaussian_kernel(7, 1, 1, 0, beta=2, plateau=True),
        make_sinc_kernel(2, 15),
    ):
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
    hr = np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)
    clean = degrade_mixture(hr, {"bicubic": 1.0, "real-esrgan": 0.0}, np.random.default_rng(1))
    assert np.abs(clean - degrade_bicubic(hr, np.random.default_rng(1))).mean() < 0.1
    with pytest.raises(ConfigError, match="no degradation 'jpeg'"):
        degrade_image(hr, "jpeg", np.random.default_rng(0))


def test_the_sheet_has_three_samples_a_row(tmp_path: Path, stream: RenderedText) -> None:
    scenes.write_sheet(stream, 3, tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (64, 3 * 3 * 64, 3)


def test_samples_become_pairs_on_disk(tmp_path: Path) -> None:
    from train.data.pairs import open_pairs

    fonts = list(map(str, FONTS))
    assert main([str(tmp_path / "pairs"), "--n", "2", "--crop", "64", "--seed", "5", "--fonts", *fonts]) == 0
    pairs = open_pairs(tmp_path / "pairs")
    sample = RenderedText(crop=64, seed=5, fonts=FONTS, degradation={"light": 1.0}).draw_sample(1)
    assert [pair.key for pair in pairs] == ["0000", "0001"] and pairs[1].mask is not None
    for name in ("hr", "lr", "mask"):
        stored, drawn = getattr(pairs[1], name), sample[name].numpy()
        assert np.abs(stored / 255 - (drawn[0] if name == "mask" else drawn.transpose(1, 2, 0))).max() < 0.6 / 255
