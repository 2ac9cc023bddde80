"""What `upscale_in_memory` does when memory runs out: smaller tiles, the same image, nothing left behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tadisr import TADiSR, upscale, upscale_in_memory
from tadisr.errors import OutOfMemoryError
from tadisr.inference.tiling import Tiling

OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input."
    ),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


def scarce(model: TADiSR, side: int, error: Exception) -> Callable[[], None]:
    """Let the model's encoder raise `error` for inputs of more than side x side; returns what undoes it."""

    def refuse(_: object, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0][:, 0].numel() * model.config.patch**2 > side**2:
            raise error

    return model.vae.encoder.conv_in.register_forward_pre_hook(refuse).remove


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_out_of_memory_is_answered_by_smaller_tiles(compact: TADiSR, error: Exception) -> None:
    """First one tile at a time, then half the tile, then half again; each is said; the result is that of small tiles."""
    said: list[str] = []
    lr = torch.rand(1, 3, 70, 90)
    remove = scarce(compact, 140, error)
    try:
        result = upscale_in_memory(compact, lr, tiling=Tiling(tile=256, overlap=128, batch=4), say=said.append)
        with pytest.raises(OutOfMemoryError, match=r"in tiles of 128 either .*Free memory, set dtype"):
            remove()
            remove = scarce(compact, 100, error)
            upscale_in_memory(compact, lr, tiling=Tiling(tile=128, overlap=64), say=said.append)
    finally:
        remove()
    assert said == [
        "Out of memory: going on with one tile at a time, which gives the same image.",
        "Out of memory: going on with tiles of 128, overlap 64: the image differs a little from one in larger tiles; to have "
        "it so from the start, set tile to 128.",
    ]
    assert torch.equal(result.image, upscale(compact, lr, tiling=Tiling(tile=128, overlap=64)).image)


def test_one_tile_at_a_time_gives_the_same_image(compact: TADiSR) -> None:
    lr, said = torch.rand(2, 3, 40, 40), []
    remove = scarce(compact, 260, MemoryError())
    try:
        result = upscale_in_memory(compact, lr, tiling=Tiling(tile=160, overlap=64, batch=2), say=said.append)
    finally:
        remove()
    assert len(said) == 1
    assert (
        result.image - upscale(compact, lr, tiling=Tiling(tile=160, overlap=64, batch=2)).image
    ).abs().max() < 1 / 255


def test_other_errors_are_not_taken_for_memory(compact: TADiSR) -> None:
    remove = scarce(compact, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    try:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            upscale_in_memory(compact, torch.rand(1, 3, 8, 8))
    finally:
        remove()


def test_a_failed_attempt_leaves_no_tensors_behind(compact: TADiSR) -> None:
    """The sentence is raised when the tensors of the attempts are gone."""
    alive: list[weakref.ref[Tensor]] = []

    def refuse(_: object, inputs: tuple[Tensor, ...]) -> None:
        alive.append(weakref.ref(inputs[0]))
        raise MemoryError

    handle = compact.vae.encoder.conv_in.register_forward_pre_hook(refuse)
    try:
        with pytest.raises(OutOfMemoryError) as caught:
            upscale_in_memory(compact, torch.rand(1, 3, 40, 40), tiling=Tiling(tile=256, overlap=128, batch=2))
    finally:
        handle.remove()
    assert len(alive) == 3 and not any(ref() is not None for ref in alive)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
