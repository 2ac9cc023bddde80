"""An ONNX graph as a torch module: frozen, differentiable in its input. For the operations that PP-OCR's recognisers use.

Reading needs the package onnx. Every operation is the torch call that the ONNX standard describes; one that is not
known here is refused by name when the graph is read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tadisr.errors import CheckpointError, ConfigError

Attributes = dict[str, Any]
Operation = Callable[..., Tensor]


def _pair_pads(x: Tensor, a: Attributes, value: float = 0.0) -> Tensor:
    """Pad (B, C, H, W) as `pads` or `auto_pad` say."""
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    if a.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        pads = []
        for size, k, stride in zip(x.shape[2:], kernel, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + k - size, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if a["auto_pad"] == b"SAME_UPPER" else (large, small))
        (top, bottom), (left, right) = pads
    else:
        top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    return F.pad(x, (left, right, top, bottom), value=value) if any((top, left, bottom, right)) else x


def run_conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = _pair_pads(x, a)
    return F.conv2d(x, weight, bias, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1))


def run_max_pool(a: Attributes, x: Tensor) -> Tensor:
    return F.max_pool2d(
        _pair_pads(x, a, float("-inf")), a["kernel_shape"], a.get("strides", 1), ceil_mode=bool(a.get("ceil_mode"))
    )


def run_average_pool(a: Attributes, x: Tensor) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise CheckpointError("AveragePool with uneven pads is not known here.")
    return F.avg_pool2d(
        x,
        a["kernel_shape"],
        a.get("strides", 1),
        (top, left),
        bool(a.get("ceil_mode")),
        bool(a.get("count_include_pad")),
    )


def run_batch_norm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normalize by the stored statistics, written out: F.batch_norm's gradient is wrong on a CPU (PyTorch 2.13) if the incoming
    gradient is channels-last.
    """
    scale = weight * (variance + a.get("epsilon", 1e-5)).rsqrt()
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return x * scale.view(shape) + (bias - mean * scale).view(shape)


def run_slice(
    a: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    count = len(starts)
    along = list(range(count)) if axes is None else axes.tolist()
    by = [1] * count if steps is None else steps.tolist()
    window = [slice(None)] * x.ndim
    for axis, start, end, step in zip(along, starts.tolist(), ends.tolist(), by, strict=True):
        window[axis] = slice(start, end, step)
    return x[tuple(window)]


def run_reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


def run_reduce_mean(a: Attributes, x: Tensor) -> Tensor:
    return x.mean(a.get("axes", list(range(x.ndim))), keepdim=bool(a.get("keepdims", 1)))


def run_squeeze(a: Attributes, x: Tensor) -> Tensor:
    return x.squeeze(a["axes"]) if "axes" in a else x.squeeze()


def run_unsqueeze(a: Attributes, x: Tensor) -> Tensor:
    for axis in sorted(a["axes"]):
        x = x.unsqueeze(axis)
    return x


def run_cast(a: Attributes, x: Tensor) -> Tensor:
    kind = _onnx().helper.tensor_dtype_to_np_dtype(a["to"])
    return x.to(torch.from_numpy(np.zeros(0, kind)).dtype)


OPERATIONS: dict[str, Operation] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": run_average_pool,
    "BatchNormalization": run_batch_norm,
    "Cast": run_cast,
    "Clip": lambda a, x, low=None, high=None: x.clamp(*(None if v is None else float(v) for v in (low, high))),
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Conv": run_conv,
    "Div": lambda a, x, y: x / y,
    "Erf": lambda a, x: x.erf(),
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "Identity": lambda a, x: x,
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": run_max_pool,
    "Mul": lambda a, x, y: x * y,
    "Pow": lambda a, x, y: x.pow(y),
    "ReduceMean": run_reduce_mean,
    "Relu": lambda a, x: x.relu(),
    "Reshape": run_reshape,
    "Shape": lambda a, x: torch.tensor(x.shape, dtype=torch.int64),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Slice": run_slice,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Sqrt": lambda a, x: x.sqrt(),
    "Squeeze": run_squeeze,
    "Sub": lambda a, x, y: x - y,
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": run_unsqueeze,
}


class OnnxGraph(nn.Module):
    """`graph(x)` is the graph's output, or the tensor named `output`; only what that needs is kept and run.

    Raises CheckpointError for a file that cannot be read or holds an operation that is not known.
    """

    def __init__(self, path: str | Path, *, output: str | None = None) -> None:
        super().__init__()
        onnx = _onnx()
        try:
            graph = onnx.load(str(path)).graph
        except Exception as error:
            raise CheckpointError(f"{path} is not an ONNX file that can be read ({error}).") from error
        self.input = graph.input[0].name
        self.output = output or graph.output[0].name
        numbers = {tensor.name: tensor for tensor in graph.initializer}
        numbers |= {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
        self.nodes: list[tuple[str, Attributes, list[str], str]] = []
        needed = {self.output}
        for node in reversed(graph.node):
            if node.op_type == "Constant" or not needed & set(node.output):
                continue
            if node.op_type not in OPERATIONS or len(node.output) != 1:
                raise CheckpointError(
                    f"{path} has the operation {node.op_type}, which train/losses/onnx_graph.py does not know."
                )
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            self.nodes.append((node.op_type, attributes, list(node.input), node.output[0]))
            needed |= set(node.input)
        self.nodes.reverse()
        if self.output not in {node[3] for node in self.nodes}:
            raise CheckpointError(f"{path} has no tensor {self.output}.")
        self.constants: dict[str, str] = {}  # tensor name -> buffer name
        for name in sorted(needed & numbers.keys()):
            self.constants[name] = f"constant_{len(self.constants)}"
            array = onnx.numpy_helper.to_array(numbers[name]).copy()
            self.register_buffer(self.constants[name], torch.from_numpy(array))

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {"": None, self.input: x}
        values |= {name: self.get_buffer(buffer) for name, buffer in self.constants.items()}
        for kind, attributes, inputs, output in self.nodes:
            values[output] = OPERATIONS[kind](attributes, *(values[name] for name in inputs))
        result = values[self.output]
        assert result is not None
        return result


def find_input(path: str | Path, kind: str, place: int) -> str:
    """Return the name of the tensor that enters the graph's last operation of a kind, counted from the end (0: the last)."""
    nodes = [node for node in _onnx().load(str(path)).graph.node if node.op_type == kind]
    return nodes[-1 - place].input[0]


def _onnx() -> Any:
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ConfigError("The OCR loss reads an ONNX file: pip install onnx, or set loss.ocr: 0.") from error
    return onnx
