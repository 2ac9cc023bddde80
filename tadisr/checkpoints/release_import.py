"""The authors' pickles read with `weights_only`, checked to the last name, and put into the words of our own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..config import LoRAConfig, ModelConfig
from ..errors import CheckpointError
from ..file_digest import hash_file
from ..presets import preset
from ..prompt import EncodedPrompt, Prompt
from ..validation import shorten_value
from .pickle_file import read_pickle
from .release_layout import VAE, Table, list_decoder, list_denoiser, list_vae

NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DECODERS = ("js_decoder", "mi_decoder")  # the same table under its later and its earlier name
WRONG = "It is neither of the two files that the authors published: download it again."
PROMPT = (  # true of an adapter that carries a prompt and of one that does not
    "its embedding was not published; it is to be made by the base's text encoder of the prompt in the authors' code."
)


@dataclass(frozen=True)
class Published:
    """One of the two files, as the authors' manifest lists it."""

    file: str
    sha256: str
    bytes: int
    steps: int
    base: str  # where its frozen base is to be had
    unknown: dict[str, str]  # what neither the file nor the authors' code tells, and what stands in for it here


PUBLISHED = {
    "kolors-release": Published(
        file="tadisr_kolors_ftsr_526000.pkl",
        sha256="4baef8b1fad319caf7d606c82539035c6fc9483c81f94601377c64813251e7f7",
        bytes=195_866_454,
        steps=526_000,
        base="Kwai-Kolors/Kolors",
        unknown={
            "channel_mapping": "the layer (550 to 512 channels) through which the attention entered the text decoder is "
            "not in the file; here the decoder starts from the image stream after its mid block, as in the CogView4 "
            "release. This is a guess: the mask may be wrong. The image does not depend on it.",
            "prompt": PROMPT,
            "time_ids": "their values were not published; here (768, 768, 0, 0, 768, 768), the training tile uncropped.",
        },
    ),
    "cogview4-release": Published(
        file="tadisr_cogview4_realce_17500.pkl",
        sha256="7cec8d0917305037cbafcb1b1bf81062add1613b561f5d7e2d1e599fe0baf5e0",
        bytes=785_453_495,
        steps=17_500,
        base="THUDM/CogView4-6B",
        unknown={
            "prompt": PROMPT,
        },
    ),
}


@dataclass(frozen=True)
class Imported:
    """A release in our own words: what `adapter.write` takes."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    record: dict[str, Any]  # for the header: the file, its digest, what is unknown
    genuine: bool  # its digest is the published one


def read_release(
    path: str | Path, *, prompt: EncodedPrompt | None = None, config: ModelConfig | None = None
) -> Imported:
    """Read one of the authors' pickles and check every name, shape and shared tensor. Raises CheckpointError.

    prompt: what the adapter is to carry, else it asks for one when it is loaded. config: of which the file is, by
    itself told by its tables.
    """
    path = Path(path)
    state = load_pickle(path)
    config = preset(detect_preset(state, path)) if config is None else config
    lora, part = cast(LoRAConfig, config.lora), config.denoiser
    decoder = next((name for name in DECODERS if name in state), DECODERS[0])
    expected = {
        f"state_dict_{part}": list_denoiser(config),
        "state_dict_vae": list_vae(config),
        decoder: list_decoder(config),
    }
    settings = {f"rank_{part}": lora.unet_rank, f"{part}_lora_target_modules": set(lora.unet_targets)}
    check_entries(state, expected, settings, path)
    tensors: dict[str, Tensor] = {}
    for name, table in expected.items():
        check_table(state[name], table, f"{path}, {name}")
        for ours, names in table.ours.items():
            tensors[ours] = join_tensors(ours, {one: state[name][one] for one in names}, lora, f"{path}, {name}")
    if prompt is not None:
        carried = Prompt(config.prompt).replace_by(prompt)
        config = replace(config, prompt=carried.config)
        tensors |= {f"prompt.{name}": tensor for name, tensor in carried.state_dict().items()}
    return describe_release(path, config, tensors)


def describe_release(path: Path, config: ModelConfig, tensors: dict[str, Tensor]) -> Imported:
    digest, published = hash_file(path), PUBLISHED[config.name]
    genuine = digest == published.sha256
    record = {
        "release": published.file, "sha256": digest, "published": genuine, "steps": published.steps if genuine else None,
        "base": published.base, "unknown": published.unknown,
    }  # fmt: skip
    return Imported(config, tensors, record, genuine)


def load_pickle(path: Path) -> Mapping[str, Any]:
    """Load the file's entries with mapped tensors, without running anything in it. Raises CheckpointError."""
    state = read_pickle(path, WRONG)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected tables of tensors. {WRONG}")
    for name, table in (("it", state), *state.items()):
        if isinstance(table, Mapping) and not all(isinstance(key, str) for key in table):
            raise CheckpointError(f"{path}: {name!s:.60} has names that are no texts. {WRONG}")
    return state


def detect_preset(state: Mapping[str, Any], path: Path) -> str:
    """Detect the preset of a pickle from its tables. Raises CheckpointError."""
    for name in PUBLISHED:
        if f"state_dict_{preset(name).denoiser}" in state:
            return name
    raise CheckpointError(f"{path} has the entries {', '.join(map(str, state))}. {WRONG}")


def check_entries(
    state: Mapping[str, Any], tables: Mapping[str, Table], settings: Mapping[str, Any], path: Path
) -> None:
    """Raise CheckpointError unless the file has exactly these entries and was trained with these settings."""
    wanted = {*tables, *settings}
    for word, names in (("lacks", wanted - state.keys()), ("has the unknown entry", state.keys() - wanted)):
        if names:
            raise CheckpointError(f"{path} {word} {min(map(str, names))}. {WRONG}")
    for name, value in settings.items():
        found = state[name]
        if isinstance(value, set) and isinstance(found, (list, tuple, set)) and all(isinstance(x, str) for x in found):
            found = set(found)
        if type(found) is not type(value) or found != value:
            raise CheckpointError(f"{path} has {name} {shorten_value(found)}, expected {value}. {WRONG}")
    for name in tables:
        if not isinstance(state[name], Mapping):
            raise CheckpointError(f"{path} has no table in {name}. {WRONG}")


def check_table(found: Mapping[str, Any], table: Table, where: str) -> None:
    """Raise CheckpointError for a missing or unknown name, another shape, or values that are not finite numbers."""
    missing, unknown = sorted(table.shapes.keys() - found.keys()), sorted(found.keys() - table.shapes.keys())
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has the unknown tensor {unknown[0]}"
        raise CheckpointError(f"{where} {what} ({len(missing)} missing, {len(unknown)} unknown). {WRONG}")
    for name, shape in table.shapes.items():
        tensor = found[name]
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tuple(tensor.shape) != shape or tensor.dtype not in NUMBERS:
            what = type(tensor).__name__
            if isinstance(tensor, Tensor):
                what = f"{tuple(tensor.shape)} {tensor.dtype} {tensor.layout} on {tensor.device}"
            raise CheckpointError(f"{where}: {name} is {what}, expected {shape} of floating point. {WRONG}")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{where}: {name} has NaN or infinite values. {WRONG}")


def join_tensors(ours: str, named: dict[str, Tensor], lora: LoRAConfig, where: str) -> Tensor:
    """Join what is stored under several names: a skip convolution and its LoRA, or two names of one tensor."""
    tensors = list(named.values())
    if len(tensors) == 1:
        return tensors[0].float()
    if any(".base_layer." in name for name in named):
        halves = {half: next(t for n, t in named.items() if f".lora_{half}.{VAE}." in n) for half in "AB"}
        base = next(tensor for name, tensor in named.items() if ".base_layer." in name)
        update = halves["B"].float().flatten(1) @ halves["A"].float().flatten(1) * (lora.alpha / lora.vae_rank)
        return base.float() + update.view_as(base)
    if not all(torch.equal(tensors[0], other) for other in tensors[1:]):
        raise CheckpointError(
            f"{where}: {' and '.join(named)} are one tensor in the release, here they differ. {WRONG}"
        )
    return tensors[0].float()
