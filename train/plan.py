"""Plan a training run before it starts: python -m train.plan CONFIG [key=value ...] [--efficiency 0.35] [--measure]

FLOPs of one step are counted by running the forward and the backward pass on tensors without memory (torch's meta device);
with gradient checkpointing the recomputed blocks are counted too. Time is FLOPs / (peak of the card x efficiency). The
efficiency is an assumption until `--measure` has timed the same step on a card: real sizes, random weights and data, so that
neither weights nor data sets are needed.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError
from tadisr.model import TADiSR

from . import config as settings
from .config import FitConfig
from .loop.gradient_checkpointing import checkpoint_blocks
from .loop.setup import build_optimizer
from .losses import Objective
from .memory import DTYPES, GIB, build_empty_model

# Dense bf16 with fp32 accumulation, TFLOP/s, by the vendors' data sheets: name -> (one card's peak, cards).
MACHINES = {
    "1x H100": (989.0, 1),
    "4x A100": (312.0, 4),
    "4x H20 (the paper)": (148.0, 4),
    "1x 24 GB (RTX 4090)": (165.0, 1),
}
EFFICIENCY = 0.35  # of the peak that training reaches; an assumption, see --measure
DAY = 86_400.0


@dataclass(frozen=True)
class Flops:
    """FLOPs of one process for one pass over its `batch` samples; multiply and add count as two."""

    forward: int
    total: int  # forward, backward, and what checkpointing computes again

    @property
    def backward(self) -> int:
        return self.total - self.forward


def count_flops(config: FitConfig) -> Flops:
    """Count the FLOPs of one pass without running it. LPIPS counts, the OCR loss does not (it needs real images)."""
    with torch.device("meta"):
        model = build_empty_model(config)
        if config.checkpointing:
            checkpoint_blocks(model)
        size = (config.batch, 3, config.data.crop, config.data.crop)
        batch = {"upscaled": torch.empty(size), "hr": torch.empty(size), "mask": torch.empty(size[0], 1, *size[2:])}
        objective = Objective(drop_ocr(config).loss, random_backbone=True).to("meta")
        with FlopCounterMode(display=False) as counter:
            loss = compute_loss(model.float(), objective, batch)
            forward = counter.get_total_flops()
            loss.backward()
            return Flops(forward, counter.get_total_flops())


def drop_ocr(config: FitConfig) -> FitConfig:
    """Return the config without the OCR loss."""
    return replace(config, loss=replace(config.loss, ocr=0.0))


def compute_loss(model: nn.Module, objective: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Run the forward pass and the loss of one batch, as train.fit does -> scalar."""
    result = model(batch["upscaled"])
    logits = None if result.mask_logits is None else result.mask_logits.float()
    return objective(result.image.float(), logits, batch["hr"], batch["mask"])["total"]


def estimate_step_seconds(config: FitConfig, flops: Flops, peak: float, efficiency: float) -> float:
    """Estimate a step's seconds on cards of `peak` TFLOP/s, `accumulate` passes each."""
    return flops.total * config.accumulate / (peak * 1e12 * efficiency)


def format_plan(config: FitConfig, flops: Flops, efficiency: float, cards: int) -> str:
    """Write a Markdown table: for each machine a step's seconds, the samples of a day, and the days for the run's samples.

    cards: how many the config's steps are for; the run has steps x batch x accumulate x cards samples.
    """
    rows = ["| machine | s a step | samples a day | days for the run |", "| --- | --- | --- | --- |"]
    step = config.batch * config.accumulate
    for name, (peak, count) in MACHINES.items():
        seconds = estimate_step_seconds(config, flops, peak, efficiency)
        a_day = DAY / seconds * step * count
        rows.append(f"| {name} | {seconds:.2f} | {a_day:,.0f} | {config.steps * step * cards / a_day:.1f} |")
    return "\n".join(rows)


# ---- on a card ------------------------------------------------------------------------------------------------------


def measure_steps(
    config: FitConfig, *, steps: int = 10, flops: Flops | None = None, peak: float | None = None
) -> dict[str, Any]:
    """Time real steps on this machine's GPU: random weights at the config's sizes, random data.

    Returns seconds (the median of `steps`), peak_gib, and tflops and efficiency where they can be told. Raises ConfigError
    without a GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError("--measure needs a GPU: this PyTorch sees none.")
    return time_steps(config, torch.device("cuda"), steps=steps, flops=flops, peak=peak)


def time_steps(
    config: FitConfig, device: torch.device, *, steps: int, flops: Flops | None = None, peak: float | None = None
) -> dict[str, Any]:
    """Time steps on any device; the first two warm up and are not counted. Returns as `measure_steps`."""
    cuda = device.type == "cuda"
    model = build_random_model(config, device)
    objective = Objective(drop_ocr(config).loss, random_backbone=True).to(device)
    optimizer = build_optimizer(config, model)
    if config.checkpointing:
        checkpoint_blocks(model)
    if config.compile:
        model.compile()
    size = (config.batch, 3, config.data.crop, config.data.crop)
    batch = {"upscaled": torch.rand(size), "hr": torch.rand(size), "mask": torch.rand(size[0], 1, *size[2:]).round()}
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    dtype = DTYPES[config.precision]
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps + 2):
        begun = time.perf_counter()
        for _ in range(config.accumulate):
            with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = compute_loss(model, objective, batch)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if cuda else "cpu", "seconds": median(times[2:])}
    found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB if cuda else None
    if flops is not None:
        found["tflops"] = flops.total * config.accumulate / found["seconds"] / 1e12
        found["efficiency"] = None if peak is None else found["tflops"] / peak
    return found


def build_random_model(config: FitConfig, device: torch.device) -> TADiSR:
    """Build the network to train on `device`, frozen parts in the config's dtype, with small random weights."""
    with torch.device("meta"):
        model = build_empty_model(config)
    model = model.to_empty(device=device)
    torch.manual_seed(config.seed)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02)
            else:
                tensor.fill_(1)
    return model


def main(argv: list[str] | None = None) -> int:
    """Run the command. Exit code 0, or a message for an error."""
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.plan", description="Count a run's FLOPs and plan its time.")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", help="key=value over the file, for instance data.crop=512")
    parser.add_argument("--cards", type=int, default=1, help="cards that the config's steps are for (default 1)")
    parser.add_argument(
        "--efficiency", type=float, default=EFFICIENCY, help=f"share of the peak (default {EFFICIENCY})"
    )
    parser.add_argument("--measure", action="store_true", help="time the step on this machine's GPU")
    parser.add_argument("--steps", type=int, default=10, help="steps that --measure times (default 10)")
    parser.add_argument("--peak", type=float, help="the card's dense bf16 peak in TFLOP/s, for --measure's efficiency")
    arguments = parser.parse_intermixed_args(argv)
    try:
        config = settings.read_config(arguments.config, arguments.overrides)
        flops = count_flops(config)
        print(
            f"a pass of {config.batch} x {config.data.crop} x {config.data.crop}: forward {flops.forward / 1e12:.2f} TFLOP, "
        )
        print(
            f"with backward {flops.total / 1e12:.2f} TFLOP; {config.accumulate} passes a step, {config.steps} steps\n"
        )
        print(format_plan(config, flops, arguments.efficiency, arguments.cards))
        if arguments.measure:
            for name, value in measure_steps(config, steps=arguments.steps, flops=flops, peak=arguments.peak).items():
                print(f"{name:>12}  {value if not isinstance(value, float) else f'{value:.3f}'}")
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
