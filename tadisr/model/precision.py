"""dtypes: what weights are stored in, and what is computed in.

With fp8 storage the matrices of the denoiser's blocks are held in e4m3 with a scale for each row, a power of two, and
are widened one layer at a time, for that layer's turn. The LoRA is not merged into them: e4m3 keeps four binary digits,
an update of a hundredth of the weight would come out as noise. It is added to the widened weight instead; diffusers'
layerwise casting, the ready-made way, knows neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = torch.float8_e4m3fn
DTYPES = {  # by the names that commands and nodes take
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8": FP8,
}
SCALE = "weight_scale"  # the buffer beside an fp8 weight: (out, 1, ...)
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.", "transformer_blocks.")  # whose matrices fp8 may hold


def compute_type(dtype: torch.dtype, device: str | torch.device) -> torch.dtype:
    """Choose the dtype to compute in for weights stored in `dtype`: the same; for fp8, what the device is fast at."""
    if dtype != FP8:
        return dtype
    device = torch.device(device)
    if device.type == "cpu":
        return torch.float32
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16


def stored_in_fp8(name: str, shape: torch.Size | tuple[int, ...]) -> bool:
    """Tell whether fp8 storage takes this tensor of a denoiser: the large matrices, not norms, biases, embeddings or ends."""
    return name.startswith(BLOCKS) and name.endswith(".weight") and len(shape) > 1


def allocate_workspace(device: torch.device | str = "cpu") -> Tensor:
    """Allocate the buffer that `to_fp8` computes in."""
    return torch.empty(2**20, device=device)


def to_fp8(weight: Tensor, work: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Convert (out, ...) to e4m3 of that shape and the scales (out, 1, ...), float32 powers of two: weight = e4m3 * scale."""
    stored = torch.empty(weight.shape, dtype=FP8, device=weight.device)
    scales = torch.ones(len(weight), *[1] * (weight.ndim - 1), device=weight.device)
    work = allocate_workspace(weight.device) if work is None else work
    rows = max(1, len(work) // max(1, weight[:1].numel()))  # at a time: float32 of all would be four times the result
    for part, into, scale in zip(weight.split(rows), stored.split(rows), scales.split(rows), strict=True):
        wide = work[: part.numel()].view(part.shape).copy_(part)
        largest = torch.linalg.vector_norm(wide.flatten(1), torch.inf, 1).view_as(scale)
        needed = torch.exp2(torch.ceil(torch.log2(largest / torch.finfo(FP8).max)))
        scale.copy_(torch.where(largest > 0, needed, 1.0))
        into.copy_(wide.div_(scale))
    return stored, scales


class LowRank:
    """The update of one weight, strength (alpha / r) B A, made when it is asked for."""

    def __init__(self, a: Tensor, b: Tensor, scale: float) -> None:
        self.a, self.b, self.scale = a, b, scale

    def map(self, change: Callable[[Tensor], Tensor]) -> LowRank:
        return LowRank(change(self.a), change(self.b), self.scale)

    def add_to(self, weight: Tensor) -> Tensor:
        """Add the update to weight (out, in) or (out, in, k, k) in place."""
        a, b = self.a.to(weight.device, weight.dtype), self.b.to(weight.device, weight.dtype)
        flat = weight.view(len(weight), -1)
        return flat.addmm_(b.flatten(1), a.flatten(1), alpha=self.scale).view_as(weight)


class Follow:
    """A layer whose weights are stored in a type of their own and follow its input's when it runs."""

    weight: Any
    bias: Any
    update: LowRank | None = None  # of an fp8 weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """What `.to(...)` does with a module's tensors, the update's included."""
        if self.update is not None:
            self.update = self.update.map(fn)
        return super()._apply(fn, recurse)  # pyright: ignore[reportAttributeAccessIssue]

    def cast(self, x: Tensor) -> tuple[Any, Tensor | None]:
        if self.weight is None:  # a norm without any, as CogView4's are
            return None, None
        weight = self.weight.to(x.dtype)
        scale = getattr(self, SCALE, None)
        if scale is not None:
            weight = weight.mul_(scale)
        if self.update is not None:
            weight = self.update.add_to(weight)
        return weight, None if self.bias is None else self.bias.to(x.dtype)


class Linear(Follow, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, *self.cast(input))


class Conv2d(Follow, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, *self.cast(input))


class GroupNorm(Follow, nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, *self.cast(input), self.eps)


class LayerNorm(Follow, nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, *self.cast(input), self.eps)  # pyright: ignore[reportArgumentType]


KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    nn.Conv2d: Conv2d,
    nn.GroupNorm: GroupNorm,
    nn.LayerNorm: LayerNorm,
}


def place_tensor(
    module: nn.Module, name: str, tensor: Tensor, *, dtype: torch.dtype, fp8: bool = False, work: Tensor | None = None
) -> None:
    """Store a tensor as a module's parameter or buffer in `dtype`, without a copy if it has that dtype.

    fp8: where `stored_in_fp8` says so, in that with its scale, made in `work`; the module's layers must `follow`.
    """
    head, _, leaf = name.rpartition(".")
    layer = module.get_submodule(head)
    if fp8 and stored_in_fp8(name, tensor.shape):
        if tensor.dtype != FP8:
            tensor, scale = to_fp8(tensor, work)
            layer.register_buffer(SCALE, scale)
    elif tensor.is_floating_point():
        tensor = tensor.to(dtype)
    old = layer._parameters.get(leaf)
    if old is not None:
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(layer, leaf, tensor)


def follow_input_dtype(module: nn.Module) -> None:
    """Let the module's plain layers cast their weights to their input's dtype, in place; stored weights stay as they are."""
    for layer in module.modules():
        kind = KINDS.get(type(layer))
        if kind is not None:
            layer.__class__ = kind
