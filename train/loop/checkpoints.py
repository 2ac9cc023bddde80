"""Save and restore the full training state. Writes are atomic; the newest N checkpoints are kept.

OUT/checkpoints/0001000/state.pt      trained weights, optimizer, EMA, notes: gathered, whatever they were split over
OUT/checkpoints/0001000/rng-0.pt      the random states of process 0, and so on
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor, distribute_tensor

from tadisr.errors import CheckpointError

from ..run_files import read_intact
from .schedule import EMA

log = logging.getLogger(__name__)

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, folder: Path, accelerator: Accelerator, *, keep: int) -> None:
        self.folder, self.accelerator, self.keep = folder, accelerator, max(1, keep)

    def steps(self) -> list[int]:
        """List the steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def save(self, step: int, model: nn.Module, optimizer: Any, ema: EMA | None, notes: dict[str, Any]) -> Path:
        """Save a checkpoint; every process takes part. The folder gets its final name once all of it is written."""
        target, part = self.folder / f"{step:07d}", self.folder / f".{step:07d}.part"
        if self.accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        state: dict[str, Any] = {"step": step, "notes": notes}
        state["ema"] = {name: gather_tensor(tensor) for name, tensor in ema.shadow.items()} if ema else None
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            model.save_checkpoint(str(part), tag="engine", exclude_frozen_parameters=True)  # pyright: ignore[reportCallIssue]
        else:
            state["model"], state["optimizer"] = get_state_dict(model, unwrap_optimizer(optimizer), options=WHOLE)
        if self.accelerator.is_main_process:
            _write(state, part / "state.pt")
        _write(random_states(), part / f"rng-{self.accelerator.process_index}.pt")
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
            for old in self.steps()[: -self.keep]:
                shutil.rmtree(self.folder / f"{old:07d}")
        self.accelerator.wait_for_everyone()
        return target

    def load(self, model: nn.Module, optimizer: Any, ema: EMA | None) -> tuple[int, dict[str, Any]]:
        """Load the newest checkpoint: its step and notes; 0 and {} if there is none. Raises CheckpointError."""
        found = self.find_intact()
        if found is None:
            return 0, {}
        folder, state, random_state = found
        if (ema is None) != (state["ema"] is None):
            raise CheckpointError(f"{folder} was written with another ema: give it as it was, or --restart.")
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            model.load_checkpoint(str(folder), tag="engine", load_module_strict=False)  # pyright: ignore[reportCallIssue]
        else:
            mine = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            missing = sorted({name.removeprefix("module.") for name in mine} - state["model"].keys())
            if missing:
                raise CheckpointError(
                    f"{folder} lacks {missing[0]}: the config has changed; put it back, or --restart."
                )
            try:
                set_state_dict(
                    model,
                    unwrap_optimizer(optimizer),
                    model_state_dict=state["model"],
                    optim_state_dict=state["optimizer"],
                    options=WHOLE,
                )
            except (KeyError, ValueError, RuntimeError) as error:
                raise CheckpointError(
                    f"{folder} does not fit the config ({str(error).splitlines()[0]:.200}): put the config back, or --restart."
                ) from error
        for name, tensor in (state["ema"] or {}).items():
            ema.shadow[name].copy_(shard_like(tensor, ema.shadow[name]))  # pyright: ignore[reportOptionalMemberAccess]
        if random_state is not None:
            restore_random_states(random_state)
        return state["step"], state["notes"]

    def find_intact(self) -> tuple[Path, dict[str, Any], dict[str, Any] | None] | None:
        """Find the newest checkpoint that can be read: its folder, state, and this process's random states.

        A damaged one is set aside as STEP.damaged, and said. None where there is none at all; raises CheckpointError where
        all are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            folder = self.folder / f"{step:07d}"
            try:
                state = read_state(folder / "state.pt", step)
                # of all processes, so that all decide alike; missing where there are more processes than before: nothing
                # that trains draws from it
                random_of = {path.name: read_intact(path) for path in sorted(folder.glob("rng-*.pt"))}
                return folder, state, random_of.get(f"rng-{self.accelerator.process_index}.pt")
            except CheckpointError as error:
                log.warning("%s It is set aside, the run resumes from the checkpoint before it.", error)
                self.accelerator.wait_for_everyone()
                if self.accelerator.is_main_process:
                    aside = folder.with_name(f"{folder.name}.damaged")
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(folder, aside)
        if steps:
            raise CheckpointError(
                f"None of the {len(steps)} checkpoints in {self.folder} is intact: begin anew with --restart."
            )
        return None


def read_state(path: Path, step: int) -> dict[str, Any]:
    """Read a checkpoint's state. Raises CheckpointError for one that is damaged, empty or something else."""
    state = read_intact(path)
    parts = (state.get("notes"), state.get("ema", 0), state.get("model", {}), state.get("optimizer", {}))
    if (
        state.get("step") != step
        or not all(part is None or isinstance(part, dict) for part in parts)
        or parts[0] is None
    ):
        raise CheckpointError(f"{path} is not the state of step {step}.")
    return state


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """torch's optimizer out of accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def gather_tensor(tensor: Tensor) -> Tensor:
    """Gather a tensor that may be sharded over processes to the CPU. Every process takes part."""
    full = tensor.detach()
    return (full.full_tensor() if isinstance(full, DTensor) else full).cpu()


def shard_like(full: Tensor, split: Tensor) -> Tensor:
    """Shard a full tensor as another one is."""
    if not isinstance(split, DTensor):
        return full
    return distribute_tensor(full.to(split.device), split.device_mesh, split.placements)


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def random_states() -> dict[str, Any]:
    """Return the states of torch's, CUDA's, numpy's and Python's random generators."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": np.random.get_state()[1].tolist(),  # pyright: ignore[reportArgumentType, reportIndexIssue, reportAttributeAccessIssue]
        "python": json.dumps(random.getstate()),
    }


def restore_random_states(state: dict[str, Any]) -> None:
    """Restore what `random_states` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, _, *rest = np.random.get_state()
    np.random.set_state((kind, np.array(state["numpy"], dtype=np.uint32), *rest))  # pyright: ignore[reportArgumentType]
    version, internal, gauss = json.loads(state["python"])
    random.setstate((version, tuple(internal), gauss))
