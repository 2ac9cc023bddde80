"""Run chunks in this process, a pool of processes, or a Ray cluster, with equal results."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

from tadisr.errors import ConfigError, TADiSRError

from ...command_errors import ignore_stop_signals

Task = Callable[[Any], Any]
AHEAD = 2  # chunks each worker has waiting for it


class Workers(Protocol):
    def map(self, task: Task, chunks: dict[int, Any], *, on_device: int | None) -> Iterator[tuple[int, Any]]:
        """Run `task(chunks[k])` for every k, and yield the results as they finish. on_device: at most so many share the GPU."""
        ...

    def close(self) -> None: ...


def open_workers(count: int | None, ray: str | None = None) -> Workers:
    """Open workers. count: processes; 0: this one; None: one per core. ray: a cluster's address, or `local`."""
    if ray is not None:
        return RayWorkers(ray)
    count = count if count is not None else os.cpu_count() or 1
    return Processes(count) if count else Here()


def limit_threads() -> None:
    """Limit every library to one thread: processes run in parallel, and sums have one order."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class Here:
    def map(self, task: Task, chunks: dict[int, Any], *, on_device: int | None) -> Iterator[tuple[int, Any]]:
        limit_threads()
        for key, chunk in chunks.items():
            yield key, task(chunk)

    def close(self) -> None:
        pass


class Processes:
    """Process pool using spawn, since OCR and torch threads do not survive fork. Workers exit with the parent."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.size = 0
        self.pool: ProcessPoolExecutor | None = None

    def _open(self, size: int) -> ProcessPoolExecutor:
        if self.pool is None or self.size != size:
            self.close()
            self.size = size
            spawn = multiprocessing.get_context("spawn")
            ranks = spawn.Value("i", 0)
            self.pool = ProcessPoolExecutor(size, mp_context=spawn, initializer=_begin, initargs=(ranks,))
        return self.pool

    def map(self, task: Task, chunks: dict[int, Any], *, on_device: int | None) -> Iterator[tuple[int, Any]]:
        pool = self._open(self.count if on_device is None else min(self.count, on_device))
        left, running = list(chunks.items())[::-1], dict[Future[Any], int]()
        try:
            while left or running:
                while left and len(running) < self.size * AHEAD:
                    key, chunk = left.pop()
                    running[pool.submit(task, chunk)] = key
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool as error:
            self.pool = None
            raise TADiSRError(
                "A worker process died, most often for want of memory. What was finished is kept: "
                "start the same command again, with fewer workers (workers=N)."
            ) from error
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None


RANK = 0  # of this worker among its fellows


def _begin(ranks: Any) -> None:
    global RANK
    with ranks.get_lock():
        RANK, ranks.value = ranks.value, ranks.value + 1
    ignore_stop_signals()
    threading.Thread(target=_follow_parent, daemon=True).start()
    limit_threads()


def _follow_parent() -> None:
    """A killed parent cannot stop its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class RayWorkers:
    """Ray tasks, one core each, or a share of a GPU. `out` and the sources lie on a disk that all nodes see."""

    def __init__(self, address: str) -> None:
        try:
            import ray  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError("--ray needs Ray: pip install ray, or the extra ray of this project.") from error
        self.ray: Any = ray
        root = Path(__file__).parents[3]
        packages = {"py_modules": [str(root / name) for name in ("tadisr", "train")]}
        if address == "local":
            ray.init(
                address="local", include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": _path(root)}
            )
        else:
            ray.init(address=address, log_to_driver=False, runtime_env=packages)

    def map(self, task: Task, chunks: dict[int, Any], *, on_device: int | None) -> Iterator[tuple[int, Any]]:
        ray = self.ray
        gpus = ray.cluster_resources().get("GPU", 0) if on_device else 0
        share = {"num_cpus": 1, "num_gpus": gpus / max(gpus, on_device or 1)} if gpus else {"num_cpus": 1}
        remote = ray.remote(**share)(_settled)
        kept = ray.put(task)
        window = max(2, int(ray.cluster_resources().get("CPU", 1)) * AHEAD)
        left, running = list(chunks.items())[::-1], dict[Any, int]()
        while left or running:
            while left and len(running) < window:
                key, chunk = left.pop()
                running[remote.remote(kept, chunk)] = key
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(done), ray.get(done)

    def close(self) -> None:
        self.ray.shutdown()


def _settled(task: Task, chunk: Any) -> Any:
    limit_threads()
    return task(chunk)


def _path(root: Path) -> dict[str, str]:
    """Workers on this machine find the packages where this process did."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))}
