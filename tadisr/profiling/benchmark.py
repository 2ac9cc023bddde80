"""Measure each stage, and what TADiSR adds to the plain U-Net and VAE decoder, in one run."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigError
from ..model import TADiSR
from ..model.schedule import denoiser_time

Stage = Callable[[], object]


@torch.inference_mode()
def measure_stages(model: TADiSR, *, size: int = 512, batch: int = 1, runs: int = 5) -> dict[str, Any]:
    """Measure seconds, FLOPs and rate of every stage for `batch` upscaled images of `size` x `size`.

    The runs of all stages are interleaved, so that a slow moment of the machine falls on all of them; medians count.
    `ratios` compare with what the base alone would do: the U-Net without recording, the VAE's own decoder.
    """
    if size < 1 or size % model.config.multiple or batch < 1 or runs < 1:
        raise ConfigError(f"size must be a multiple of {model.config.multiple}, batch and runs 1 or more.")
    torch.manual_seed(0)
    image = torch.rand(batch, 3, size, size, device=model.device, dtype=model.dtype)
    latent, skips = model.encode(image)
    z, responses = model.denoise(latent)
    a_tex = model.project(z, responses)
    conditions, timestep = model.prompt.conditions(batch, (size, size)), denoiser_time(model.config.schedule)
    stages: dict[str, Stage] = {
        "encode": lambda: model.encode(image),
        "denoise": lambda: model.denoise(latent),
        "project": lambda: model.project(z, responses),
        "decode": lambda: model.decode(z, a_tex, skips, image),
        "whole": lambda: model(image),
        "plain_unet": lambda: model.denoiser(latent, timestep, **conditions),
    }
    if model.decoder.trunk is None:  # else the VAE has no decoder of its own to compare with
        stages["plain_vae_decode"] = lambda: model.vae.decode(z)  # pyright: ignore[reportArgumentType]
    reset_peak(model.device)
    seconds = time_interleaved(stages, runs, model.device)
    peak = peak_bytes(model.device)
    report = {name: {"seconds": seconds[name], **measure_rate(stage, seconds[name])} for name, stage in stages.items()}
    ratios = {"text_attention": (seconds["denoise"] + seconds["project"]) / seconds["plain_unet"]}
    if "plain_vae_decode" in seconds:
        ratios["joint_decoders"] = seconds["decode"] / seconds["plain_vae_decode"]
    return {
        "model": model.config.name,
        "size": size,
        "batch": batch,
        "runs": runs,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "stages": report,
        "ratios": ratios,
        "peak_bytes": peak,
    }


def time_interleaved(stages: dict[str, Stage], runs: int, device: torch.device) -> dict[str, float]:
    """Return the median seconds of each stage over `runs` rounds, after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(runs + 1):
        for name, stage in stages.items():
            synchronize_device(device)
            begun = time.perf_counter()
            stage()
            synchronize_device(device)
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def measure_rate(stage: Stage, seconds: float) -> dict[str, float]:
    with FlopCounterMode(display=False) as counter:
        stage()
    flops = counter.get_total_flops()
    return {"gflop": flops / 1e9, "gflop_per_second": flops / 1e9 / seconds}


def synchronize_device(device: torch.device) -> None:
    if device.type in ("cuda", "mps"):
        getattr(torch, device.type).synchronize()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    """Return the most memory held: by torch on a GPU, by the process elsewhere; None where the system cannot tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
