"""The recogniser as a torch graph against onnxruntime, and the loss on what it sees."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from tadisr import CheckpointError
from train.config import LossConfig
from train.losses import Objective
from train.losses.ocr import OCRLoss, blur_line, find_lines, find_recognizer, hellinger_distance, kl_divergence
from train.losses.onnx_graph import OnnxGraph, find_input


@pytest.fixture(scope="module", params=["features", "reading", "hellinger"])
def loss(request: pytest.FixtureRequest) -> OCRLoss:
    return OCRLoss(kind=request.param)


def page() -> tuple[torch.Tensor, torch.Tensor]:
    """Two lines of text, dark on light, and their mask."""
    ink = np.zeros((96, 256), np.uint8)
    for at, text in ((34, "Reading 42"), (80, "small print")):
        cv2.putText(ink, text, (8, at), cv2.FONT_HERSHEY_SIMPLEX, 1.0, 255, 2, cv2.LINE_AA)
    mask = torch.from_numpy(ink)[None, None].float() / 255
    return (0.9 - 0.8 * mask).expand(1, 3, -1, -1).clone(), mask


@pytest.mark.parametrize("width", [48, 160, 328])
def test_the_graph_is_what_onnxruntime_runs(width: int) -> None:
    path = find_recognizer()
    picture = torch.rand(2, 3, 48, width, generator=torch.Generator().manual_seed(width)) * 2 - 1
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: picture.numpy()})[0]
    ours = OnnxGraph(path)(picture)
    assert ours.shape == expected.shape
    assert np.abs(ours.numpy() - expected).max() < 1e-3


def test_its_gradient_is_the_slope() -> None:
    """Against central differences, in double. F.batch_norm's own gradient fails here on a CPU (PyTorch 2.13)."""
    graph = OnnxGraph(find_recognizer(), output=find_input(find_recognizer(), "Softmax", 0)).double()
    draw = torch.Generator().manual_seed(0)
    picture = (torch.rand(1, 3, 48, 168, generator=draw, dtype=torch.double) * 2 - 1).requires_grad_()
    weights = torch.randn(graph(picture).shape, generator=draw, dtype=torch.double)
    (gradient,) = torch.autograd.grad((graph(picture) * weights).sum(), picture)
    step = torch.randn(picture.shape, generator=draw, dtype=torch.double) * 1e-6
    with torch.no_grad():
        slope = ((graph(picture + step) - graph(picture - step)) * weights).sum() / 2
    assert slope / (gradient * step).sum() == pytest.approx(1, abs=1e-5)


def test_lines_are_found_in_the_mask() -> None:
    windows = find_lines(page()[1][0, 0])
    assert len(windows) == 2
    (top, bottom, left, right), second = sorted(windows)
    assert top < 14 and 34 <= bottom < 50 and left < 10 and right > 160 and second[0] > 45
    assert find_lines(torch.zeros(32, 32)) == []


def test_lines_too_small_to_be_read_in_lr_are_left_out() -> None:
    mask = torch.zeros(64, 64)
    mask[4:14, 4:60] = mask[30:50, 4:60] = 1
    ((top, bottom, _, _),) = find_lines(mask)
    assert top < 30 and bottom > 50 and len(find_lines(mask, smallest=8)) == 2


def test_the_gradient_stays_at_the_glyphs(loss: OCRLoss) -> None:
    picture, mask = page()
    ours = (picture * 0.9).requires_grad_()
    loss(ours, picture, mask).backward()
    assert ours.grad is not None
    near = cv2.dilate((mask[0, 0] > 0.5).numpy().astype(np.uint8), np.ones((7, 7), np.uint8))
    assert ours.grad[0, :, near > 0].any() and not ours.grad[0, :, near == 0].any()


def test_the_blur_takes_away_what_is_one_pixel_wide() -> None:
    line = torch.rand(1, 3, 48, 96, generator=torch.Generator().manual_seed(0))
    fine = (torch.arange(96) % 2).float().expand(1, 3, 48, 96) - 0.5
    left = blur_line(line + fine, 1.0) - blur_line(line, 1.0)
    assert left[..., 8:-8].abs().max() < 0.01
    assert (blur_line(line, 0.0) - line).abs().max() < 1e-6


def test_what_reads_alike_costs_little_and_the_gradient_reaches_the_image(loss: OCRLoss) -> None:
    picture, mask = page()
    assert loss(picture, picture, mask) == 0
    blurred = torch.nn.functional.avg_pool2d(picture, 9, 1, 4)
    slightly = torch.nn.functional.avg_pool2d(picture, 3, 1, 1).requires_grad_()
    assert 0 < loss(slightly, picture, mask) < loss(blurred, picture, mask)
    loss(slightly, picture, mask).backward()
    assert slightly.grad is not None and slightly.grad[mask.expand(-1, 3, -1, -1) > 0.5].any()
    assert not any(p.requires_grad for p in loss.parameters())
    nothing = loss(slightly, picture, mask * 0)
    assert nothing == 0 and nothing.requires_grad


def test_a_step_down_its_gradient_reads_better(loss: OCRLoss) -> None:
    picture, mask = page()
    ours = torch.nn.functional.avg_pool2d(picture, 5, 1, 2).requires_grad_()
    torch.manual_seed(1)
    before = loss(ours, picture, mask)
    (gradient,) = torch.autograd.grad(before, ours)
    torch.manual_seed(1)  # the same lines through the same blur
    with torch.no_grad():
        after = loss(ours - gradient * 0.001 / gradient.abs().max(), picture, mask)
    assert after < before


def test_it_is_one_more_term() -> None:
    picture, mask = page()
    off = LossConfig(mse=0, lpips="off", mf=0, seg_mse=0, focal=0, dice=0)
    terms = Objective(dataclasses.replace(off, ocr=0.5))(picture * 0.9, None, picture, mask)
    assert terms.keys() == {"ocr", "total"} and terms["ocr"] > 0
    assert LossConfig().ocr == 0


def test_so_many_lines_of_an_image_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, mask = page()
    read = []
    for lines in (1, 4):
        loss = OCRLoss(lines=lines)
        read.append([])
        monkeypatch.setattr(loss.recognizers[0], "forward", lambda x, r=read[-1]: r.append(x.shape) or x.flatten(2))
        loss(picture, picture, mask)
    assert [len(shapes) for shapes in read] == [2, 4]  # a line of SR and one of HR; both lines of both


def test_a_hopeless_line_counts_no_more_than_one() -> None:
    same, other = torch.full((4, 5), -30.0), torch.full((4, 5), -30.0)
    same[:, 0], other[:, 1] = 30, 30  # sure of different characters
    assert hellinger_distance(same, same).item() == pytest.approx(0, abs=1e-6)
    assert hellinger_distance(same, other).item() == pytest.approx(1, abs=1e-6) and kl_divergence(same, other) > 50
    half = torch.tensor([[0.5, 0.5]]).log()  # by hand: 1 - sqrt(.5 * 1)
    assert hellinger_distance(half, torch.tensor([[0.0, -200.0]])).item() == pytest.approx(1 - 0.5**0.5, abs=1e-6)


def test_several_recognisers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, mask = page()
    file = str(find_recognizer())
    loss = Objective(LossConfig(lpips="off", ocr=1.0, ocr_kind="reading", ocr_model=(file, file), ocr_lines=1)).ocr
    assert loss is not None and loss.lines == 1 and loss.kind == "reading"
    asked = []
    for i, recognizer in enumerate(loss.recognizers):
        monkeypatch.setattr(recognizer, "forward", lambda x, i=i: asked.append(i) or x.flatten(2))
    torch.manual_seed(0)
    for _ in range(12):
        loss(picture, picture, mask)
    assert set(asked) == {0, 1} and asked[::2] == asked[1::2]  # one step's SR and HR by the same


def test_the_operations_of_pp_ocr_v4(tmp_path: Path) -> None:
    """Constants as nodes, Clip with bounds, Cast of a shape, a pool over all: against onnxruntime."""
    import onnx
    from onnx import helper, numpy_helper

    node = helper.make_node
    six, zero = (numpy_helper.from_array(np.array(v, np.float32)) for v in (6, 0))
    nodes = [
        node("Constant", [], ["zero"], value=zero),
        node("Constant", [], ["six"], value=six),
        node("Clip", ["x", "zero", "six"], ["clipped"]),
        node("GlobalAveragePool", ["clipped"], ["pooled"]),
        node("Clip", ["pooled", "", "six"], ["below"]),
        node("Shape", ["x"], ["shape"]),
        node("Cast", ["shape"], ["sides"], to=onnx.TensorProto.FLOAT),
        node("ReduceMean", ["sides"], ["side"], keepdims=0),
        node("Mul", ["below", "side"], ["y"]),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [tensor("x", 1, ["b", 3, 4, "w"])], [tensor("y", 1, ["b", 3, 1, 1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    onnx.save(model, tmp_path / "v4.onnx")
    picture = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(0)) * 9
    session = onnxruntime.InferenceSession(str(tmp_path / "v4.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": picture.numpy()})
    assert np.abs(OnnxGraph(tmp_path / "v4.onnx")(picture).numpy() - expected).max() < 1e-4


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"x\.onnx is not an ONNX file|operation"):
        OnnxGraph(tmp_path / "x.onnx")
