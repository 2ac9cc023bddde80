"""One report on small pairs, made once for all tests of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_evaluation import BOXES, LINES, SIZE, sign

from train.evaluate import main


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two signs and a bare wall, with masks and labels."""
    folder = tmp_path_factory.mktemp("signs")
    for part in ("hr", "lr", "mask"):
        (folder / part).mkdir()
    for number, lines in enumerate(LINES):
        picture = sign(lines, number)
        picture.save(folder / "hr" / f"{number}.png")
        picture.resize((SIZE[0] // 4, SIZE[1] // 4), Image.Resampling.BICUBIC).save(folder / "lr" / f"{number}.png")
        picture.convert("L").point(lambda value: 255 * (value < 128)).save(folder / "mask" / f"{number}.png")
    boxed = [{"text": text, "box": box} for text, box in zip(LINES[0], BOXES, strict=True)]
    (folder / "labels.json").write_text(json.dumps({"0": boxed, "1": ["Street 27"]}))
    return folder


@pytest.fixture(scope="session")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results: the HR images themselves, but for a letter; their masks moved by half."""
    folder = tmp_path_factory.mktemp("finished")
    for number, lines in enumerate(LINES):
        sign(tuple(line.replace("CLOSED", "CLOSER") for line in lines), number).save(folder / f"{number}.png")
        mask = np.array(Image.open(data / "mask" / f"{number}.png"))
        mask[:, SIZE[0] // 2 :] = 0
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
    return folder


@pytest.fixture(scope="session")
def esrgan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ESRGAN with random weights, in the format its files have."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("others") / "TinyESRGAN_x4.pth"
    torch.save(ESRGAN(num_filters=8, num_blocks=1).state_dict(), file)
    return file


@pytest.fixture(scope="session")
def report(data: Path, finished: Path, esrgan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    baselines = [option for name in ("bicubic", "lanczos", f"esrgan:{esrgan}") for option in ("--baseline", name)]
    arguments = ["--data", str(data), *baselines, "--results", f"finished={finished}", "--engine", "rapidocr"]
    arguments += ["--device", "cpu", "-o", str(out)]
    assert main(arguments) == 0
    return out
