"""Our models in the hands of ComfyUI's memory manager: a ModelPatcher for each part, loaded only for the stage that needs it.

Every layer gets the host's class, so that the host may leave any of them off the card and bring it in for its turn.
Adapters on one base share its modules; their LoRA are the host's weight patches, undone when another one runs.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor, nn

from ...tadisr import CheckpointError, TADiSR, load
from ...tadisr.checkpoints import adapter
from ...tadisr.checkpoints.adapter import read_config
from ...tadisr.checkpoints.base_model import find_base, load_part
from ...tadisr.checkpoints.tensor_index import Table
from ...tadisr.config import ModelConfig
from ...tadisr.errors import OutOfMemoryError
from ...tadisr.model import precision
from ...tadisr.model.lora import Whole
from ...tadisr.model.precision import DTYPES, FP8, SCALE, LowRank
from ...tadisr.out_of_memory import free_memory, out_of_memory_reason
from ...tadisr.prompt import EncodedPrompt

HELD = "inner"  # where a part is within what its patcher holds
ADDED = "added"  # the part that TADiSR adds to a base
KINDS = {kind: own.__name__ for own, ours in precision.KINDS.items() for kind in (own, ours)}
# Maps of the decoders' last level that a stage holds at once, as `python -m tadisr memory` counts them.
MAPS = {"encode": 3.0, "denoise": 0.6, "decode": 9.0, "all": 9.0}
GUIDED = 54.0  # kept for a guide's gradients


class Held(nn.Module):
    """A plain module around a part: ModelPatcher sets `.device`, which on diffusers' models is read-only."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Loaded:
    """TADISR_MODEL: a network, and the patchers of its parts."""

    def __init__(self, network: TADiSR, patchers: dict[str, ModelPatcher]) -> None:
        self.network, self.patchers = network, patchers
        self.load_device = mm.get_torch_device()
        network.placed = self.load_device

    def bring_in(self, stage: str, *, pixels: int, guided: bool = False) -> TADiSR:
        """Load the parts of a stage (encode, denoise, decode, or all) to the GPU, with room for so many pixels at once.

        What the stage does not need may leave the card; what does not fit stays off it and is brought in layer by layer.
        """
        needed = {
            "encode": ["vae"],
            "denoise": [self.network.config.denoiser, ADDED],
            "decode": ["vae", ADDED],
            "all": list(self.patchers),
        }[stage]
        room = estimate_activations(self.network, stage, pixels, guided)
        mm.load_models_gpu([self.patchers[part] for part in needed], memory_required=room)
        return self.network


def estimate_activations(network: TADiSR, stage: str, pixels: int, guided: bool) -> int:
    """Estimate the bytes that a stage holds beside the weights for so many pixels of the x4 image at once."""
    config = network.config
    widths = config.vae["block_out_channels"]
    trunk = config.decoder.trunk
    last = (
        widths[min(1, len(widths) - 1)] if trunk is None else trunk.channels
    )  # of what enters the decoder's last level
    width = last / config.patch**2
    full = guided or network.overflowed or network.dtype == torch.float32
    return int(width * pixels * (GUIDED if guided else MAPS[stage]) * (4 if full else 2))


# ---- dtypes ---------------------------------------------------------------------------------------------------


def number_types(name: str, *, wide: bool = False) -> tuple[torch.dtype, torch.dtype]:
    """Return the storage and the compute dtype for a name of the list. wide: auto prefers bf16 to fp16.

    An SDXL VAE overflows in fp16, which costs it a second pass in fp32. Raises CheckpointError for an unknown name.
    """
    if name not in (*DTYPES, "auto"):
        raise CheckpointError(f"dtype is {name!r}, expected auto, {', '.join(DTYPES)}.")
    device = mm.get_torch_device()
    half = torch.float16 if mm.should_use_fp16(device) else torch.float32
    if (wide or name == "fp8") and mm.should_use_bf16(device):
        half = torch.bfloat16
    dtype = half if name == "auto" else DTYPES[name]
    return dtype, half if dtype == FP8 else dtype


# ---- into the host's hands ------------------------------------------------------------------------------------------


def lend_classes(module: nn.Module, *, casting: bool) -> None:
    """Give the module's layers the host's classes, in place. casting: their weights follow their input's dtype."""
    ops = comfy.ops.manual_cast if casting else comfy.ops.disable_weight_init
    for layer in module.modules():
        name = KINDS.get(type(layer))
        if name is not None:
            layer.__class__ = getattr(ops, name)


def patcher_of(module: nn.Module, *, casting: bool) -> ModelPatcher:
    lend_classes(module, casting=casting)
    patcher = ModelPatcher(Held(module), load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())
    for name, layer in module.named_modules():
        if hasattr(layer, SCALE):
            patcher.add_weight_wrapper(f"{HELD}.{name}.weight", Scaled(layer))
    return patcher


class Scaled:
    """An fp8 weight's scale, for the host to apply when it has widened the weight."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.mul_(getattr(self.layer, SCALE).to(weight))


class Updated:
    """An fp8 weight's LoRA, likewise; merged into the weight itself it would be lost in the rounding."""

    def __init__(self, update: LowRank) -> None:
        self.update = update

    def __call__(self, weight: Tensor) -> Tensor:
        return self.update.add_to(weight)

    def move_to(self, device: torch.device) -> int:
        self.update = self.update.map(lambda tensor: tensor.to(device))
        return self.update.a.nbytes + self.update.b.nbytes


def take_along(patcher: ModelPatcher, _: bool) -> None:
    """Move the updates off the GPU when the part leaves it."""
    for functions in patcher.weight_wrapper_patches.values():
        for function in functions:
            if isinstance(function, Updated):
                function.move_to(patcher.offload_device)


def collect_added(network: TADiSR) -> nn.Module:
    """Collect what TADiSR adds to its base as one module."""
    parts = {name: getattr(network, name) for name in adapter.ADDED}
    return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


class Base:
    """TADISR_BASE: the tables of a frozen base; its parts are loaded once, when an adapter tells their sizes."""

    def __init__(self, denoiser: Table, vae: Table, dtype: torch.dtype, compute: torch.dtype) -> None:
        self.tables = (denoiser, vae)
        self.dtype, self.compute = dtype, compute
        self._loaded: dict[str, tuple[dict[str, ModelPatcher], dict[str, str | None]]] = {}

    def parts(self, config: ModelConfig) -> tuple[dict[str, ModelPatcher], dict[str, str | None]]:
        """Load the base's parts; return their patchers and digests. Raises CheckpointError."""
        key = json.dumps([{part: getattr(config, part) for part in config.parts}], sort_keys=True)
        if key not in self._loaded:
            patchers, digests = {}, {}
            for part, table in zip(config.parts, self.tables, strict=True):
                dtype = self.compute if part == "vae" else self.dtype
                module, digests[part] = load_part(config, part, table, dtype=dtype, compute=self.compute)
                patchers[part] = patcher_of(module, casting=part == "vae" or dtype == FP8)
            self._loaded = {key: (patchers, digests)}
        return self._loaded[key]

    def with_adapter(self, path: Path, *, strength: float = 1.0, prompt: EncodedPrompt | None = None) -> Loaded:
        """Build a model of this base and an adapter's file. Raises CheckpointError."""
        config = adapter.read_config(path)
        if config.lora is None:
            raise CheckpointError(f"{path} stands alone, it is no adapter: load it with Load TADiSR Model.")
        originals, digests = self.parts(config)
        patchers = {part: patcher.clone() for part, patcher in originals.items()}
        modules = {part: patcher.model.inner for part, patcher in patchers.items()}
        with torch.device("meta"):  # what is added gets its values from the file
            network = TADiSR(config, **modules)
        network.base_digest = digests
        parts = {id(module): part for part, module in modules.items()}

        def apply(module: nn.Module, name: str, update: LowRank | Whole) -> None:
            patcher, key = patchers[parts[id(module)]], f"{HELD}.{name}"
            if isinstance(update, Whole):  # W (1 - s) + W' s
                change = {key: ("diff", (update.value,))}
                patcher.add_patches(change, strength_patch=update.strength, strength_model=1 - update.strength)
            elif module.get_parameter(name).dtype == FP8:
                patcher.add_weight_wrapper(key, Updated(update))
            else:  # alpha / rank of the host's is our scale
                weights = (update.b, update.a, update.scale * len(update.a), None, None, None)
                patcher.add_patches({key: LoRAAdapter(set(), weights)})

        adapter.load_tensors(
            network, path, dtype=self.dtype, compute=self.compute, strength=strength, prompt=prompt, apply=apply
        )
        network.eval().requires_grad_(False)
        for patcher in patchers.values():
            patcher.add_callback(CallbacksMP.ON_DETACH, take_along)
        return Loaded(network, patchers | {ADDED: patcher_of(collect_added(network), casting=True)})


def load_alone(path: Path, dtype: torch.dtype) -> Loaded:
    """Load a model that needs no base. Raises CheckpointError."""
    network = load(path, dtype=dtype, device=mm.unet_offload_device())
    patchers = {
        part: patcher_of(network.get_submodule(part), casting=part == "vae" or dtype == FP8)
        for part in network.config.parts
    }
    return Loaded(network, patchers | {ADDED: patcher_of(collect_added(network), casting=True)})


WHOLE = "The image as a whole is too large for the memory: use Upscale with TADiSR, which works in tiles, or a smaller image."


def load_model(path: Path, dtype: str, base: Path | None = None) -> Loaded:
    """Load a model under ComfyUI's memory management, an adapter on its base. Raises CheckpointError."""
    config = read_config(path)
    kind, compute = number_types(dtype, wide=config.lora is not None)
    if config.lora is None:
        if base is not None:
            raise CheckpointError(f"{path} stands alone, it is no adapter: leave out the base {base}.")
        return load_alone(path, kind)
    tables = find_base(base, config, dtype=kind)
    return Base(tables[config.denoiser], tables["vae"], kind, compute).with_adapter(path)


@contextmanager
def in_memory(model: Loaded, stage: str, *, pixels: int, guided: bool = False, advice: str = WHOLE) -> Iterator[TADiSR]:
    """Yield the network with what a stage (encode, denoise, decode, or all) needs of it on its device.

    Raises OutOfMemoryError with the advice when memory does not suffice for what is done in it. Only its words are kept
    of the original error, whose frames hold the tensors that filled the memory.
    """
    try:
        yield model.bring_in(stage, pixels=pixels, guided=guided)
        return
    except Exception as error:
        reason = out_of_memory_reason(error)
        if reason is None:
            raise
        traceback.clear_frames(error.__traceback__)
    free_memory()
    mm.soft_empty_cache()
    raise OutOfMemoryError(f"{advice} ({reason})")


def pixels_of(model: Loaded, latent: dict[str, Any]) -> int:
    """Count the pixels of one image of the latent."""
    height, width = latent["samples"].shape[-2:]
    return height * width * model.network.config.latent_factor**2
