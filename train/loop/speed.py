"""Measure a run's speed: the FLOPs of a step and the share of its time in convolutions, each on one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

PROFILED = 2  # the pass since the start of the process; the ones before warm up


class Speed:
    """Measures one of the first passes that run under `measure`; the numbers of the run are the same with or without it.

    flops: of a forward and backward pass over one batch of this process, counted on a forward pass and taken times
    three, 0 until `count` ran. convolutions: their share of a pass's time, 0 to 1, None until one was profiled.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled, self.passes = enabled, 0
        self.flops = 0
        self.convolutions: float | None = None

    def count(self, forward: Callable[[], object]) -> None:
        """Count the FLOPs of a forward pass, once."""
        if self.enabled and not self.flops:
            with FlopCounterMode(display=False) as counter:
                forward()
            self.flops = 3 * counter.get_total_flops()

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Run one pass within it."""
        number, self.passes = self.passes, self.passes + 1
        if not self.enabled or number != PROFILED:
            yield
            return
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes its start and stop to stderr
        with profile(activities=activities()) as profiled:
            yield
        self.convolutions = share_in_convolutions(profiled)

    def scalars(self, passes_per_second: float) -> dict[str, float]:
        """Give gflops, billions of them a second, and convolutions; empty where nothing was measured."""
        if self.convolutions is None:
            return {}
        return {"gflops": self.flops * passes_per_second / 1e9, "convolutions": self.convolutions}


def activities() -> list[ProfilerActivity]:
    found = [ProfilerActivity.CPU]
    return [*found, ProfilerActivity.CUDA] if torch.cuda.is_available() else found


def share_in_convolutions(profiled: profile) -> float:
    """Compute the share of the time in operators whose name has `convolution`, on the GPU where one was used."""
    events = profiled.key_averages()
    total = sum(event.self_device_time_total for event in events)
    times = [event.self_device_time_total if total else event.self_cpu_time_total for event in events]
    inside = [time for event, time in zip(events, times, strict=True) if "convolution" in event.key]
    return sum(inside) / max(1e-9, sum(times))
