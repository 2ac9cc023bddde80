"""Estimate a model's memory from its weights' sizes and one pass on the meta device.

The network runs on the meta device, where every operation makes tensors of the right shape and type but without
values; counting those that are alive gives the most that one pass holds, to the byte, in a second. What a GPU's
kernels need beside it (workspaces, the allocator's gaps, the driver) is not in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..config import ModelConfig
from ..model import TADiSR, precision
from ..model.precision import FP8


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that operations make and that are still held; `peak` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._see(tensor)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.held += size
        self.peak = max(self.peak, self.held)

        def gone(_: object) -> None:
            self._known.pop(key, None)
            self.held -= size

        self._known[key] = weakref.ref(storage, gone)


def build_on_meta(config: ModelConfig, dtype: torch.dtype, compute: torch.dtype) -> TADiSR:
    """Build the model in its dtypes on the meta device, without values."""
    with torch.device("meta"):
        model = TADiSR(config).to(compute).eval().requires_grad_(False)
    if dtype == FP8:
        denoiser = model.denoiser
        precision.follow_input_dtype(denoiser)
        for name, tensor in list(denoiser.named_parameters()):
            precision.place_tensor(denoiser, name, tensor, dtype=compute, fp8=True)
    return model


def count_weight_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


@torch.inference_mode()
def plan_memory(
    config: ModelConfig, *, dtype: torch.dtype, compute: torch.dtype, tile: int = 768, batch: int = 1
) -> dict[str, Any]:
    """Count the bytes of every part's weights, and the most that each stage holds beside them for `batch` tiles of `tile`."""
    model = build_on_meta(config, dtype, compute)
    side = -(-tile // config.multiple) * config.multiple
    image = torch.empty(batch, 3, side, side, device="meta", dtype=torch.float32)
    held: dict[str, Any] = {}

    def stage(name: str, run: Callable[[], Any]) -> Any:
        with Alive() as alive:
            result = run()
        held[name] = alive.peak
        return result

    latent, skips = stage("encode", lambda: model.encode(image))
    z, responses = stage("denoise", lambda: model.denoise(latent))
    a_tex = stage("project", lambda: model.project(z, responses))
    stage("decode", lambda: model.decode(z, a_tex, skips, image))
    stage("whole", lambda: model(image))
    parts = {config.denoiser: model.denoiser, "vae": model.vae}
    own = {name: count_weight_bytes(module) for name, module in parts.items()}
    own["added"] = count_weight_bytes(model) - sum(own.values())
    return {
        "model": config.name,
        "dtype": str(dtype).removeprefix("torch."),
        "compute": str(compute).removeprefix("torch."),
        "tile": side,
        "batch": batch,
        "weights": own | {"all": sum(own.values())},
        "activations": held,
        "together": sum(own.values()) + held["whole"],
    }
