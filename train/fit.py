"""Training, one linear loop: `python -m train.fit train/configs/compact.yaml [key=value ...]`, or `accelerate launch -m`.

A run lives in its `out` folder: `checkpoints/` (all that resuming needs), `model.safetensors` (the weights, EMA if there
is one), `best-*.safetensors`, `log.csv`, `validation.csv`, `events.*` for tensorboard, `panel-NNNNNNN.png`. Starting it
again resumes, as if it had never stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    send_to_device,
    set_seed,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from tadisr.allocator import keep_buffers
from tadisr.checkpoints import adapter
from tadisr.console import escape_unknown_characters
from tadisr.errors import ConfigError, TADiSRError
from tadisr.model import TADiSR

from . import config as settings
from .command_errors import (
    Stopped,
    StopRequest,
    catch_stop_signals,
    ignore_stop_signals,
    next_batch,
    report_in_one_sentence,
)
from .config import FitConfig
from .data.triplets import Share, Triplets, open_held_out_samples, open_training_samples
from .loop.checkpoints import Checkpoints, gather_tensor
from .loop.panel import Panel
from .loop.scalars import Journal
from .loop.schedule import EMA, Watch, learning_rate
from .loop.setup import build_model, build_optimizer
from .loop.speed import Speed
from .loop.validation import Best, Validation
from .losses import Objective
from .run_lock import LOCK, lock_folder

log = logging.getLogger("train.fit")


def make_accelerator(config: FitConfig) -> Accelerator:
    """Create the Accelerator for one process, DDP, FSDP or DeepSpeed, as the launcher asks. Raises ConfigError for a mode whose
    state cannot be saved.
    """
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),  # validation takes its time
        ],
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin: Any = accelerator.state.deepspeed_plugin
        if plugin.zero_stage == 3:  # its weights are never whole, and the trained part is small
            raise ConfigError(
                "DeepSpeed's ZeRO stage 3 is not supported: use stage 2 (train/configs/accelerate/zero2.yaml)."
            )
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch
    sharded: Any = accelerator.state.fsdp_plugin if accelerator.distributed_type == DistributedType.FSDP else None
    if sharded is not None and sharded.fsdp_version != 2:
        raise ConfigError(
            "FSDP is supported in its version 2: set fsdp_version: 2 (train/configs/accelerate/fsdp.yaml)."
        )
    return accelerator


def make_loader(config: FitConfig, accelerator: Accelerator, step: int, needs_mask: bool) -> DataLoader[Any]:
    """Create the loader of this process's batches from `step` on, in order."""
    share = Share(
        start=step * config.accumulate,
        stop=config.steps * config.accumulate,
        batch=config.batch,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    return DataLoader(
        Triplets(
            open_training_samples(config.data, seed=config.seed, needs_mask=needs_mask),
            guided=config.data.guided,
            seed=config.seed,
        ),
        batch_size=config.batch,
        sampler=share,
        num_workers=config.data.workers,
        worker_init_fn=init_worker,
        multiprocessing_context="fork" if config.data.workers else None,
        prefetch_factor=4 if config.data.workers else None,
        pin_memory=accelerator.device.type == "cuda",
    )


def init_worker(_: int) -> None:
    """Limit a data worker to one thread, and let the parent handle stop signals."""
    cv2.setNumThreads(0)
    ignore_stop_signals()


def training_record(config: FitConfig, step: int, world: int) -> dict[str, Any]:
    """Return the training settings and state written into a checkpoint's header."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, encoding="utf-8").stdout.strip()
    table = settings.to_dict(config)
    data = {key: table["data"][key] for key in ("kind", "crop", "view", "degradation", "camera", "text_scale", "walls")}
    loss = table["loss"]
    if config.loss.ocr_models:  # record file names only, not local paths
        loss |= {"ocr_model": [Path(file).name for file in config.loss.ocr_models]}
    return {
        "steps": step,
        "batch": config.batch * config.accumulate * world,
        "lr": config.lr,
        "seed": config.seed,
        "commit": commit or "unknown",
        "data": data | ({"sources": table["data"]["sources"]} if config.data.sources else {}),
        "loss": loss,
        "init": None if config.init is None else adapter.read_header(config.init).training,
    }


def run_training(config: FitConfig, *, restart: bool = False) -> Path:
    """Run or resume the training that `config` describes, and return its folder. Deterministic on one machine.

    SIGTERM and Ctrl-C end it after the current step, whose state is saved; of several processes at once, without. Raises
    ConfigError while another run writes to the folder.
    """
    out = Path(config.out)
    set_seed(config.seed)
    accelerator = make_accelerator(config)
    alone = lock_folder(out, "run") if accelerator.is_main_process else nullcontext()
    with alone, catch_stop_signals(at_once=accelerator.num_processes > 1) as stop:
        if restart and accelerator.is_main_process:
            empty_folder(out)
        accelerator.wait_for_everyone()
        with tqdm(total=config.steps, disable=not accelerator.is_main_process, mininterval=5) as bar:
            return train_locked(config, accelerator, stop, bar)


def empty_folder(folder: Path) -> None:
    """Delete everything in a run's folder except its lock."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def train_locked(config: FitConfig, accelerator: Accelerator, stop: StopRequest, bar: Any) -> Path:
    """Train in a folder that this run has locked."""
    out = Path(config.out)
    model: nn.Module = build_model(config)
    needs_mask = model.config.decoder.joint  # pyright: ignore[reportAttributeAccessIssue]
    trunk = model.config.decoder.trunk  # pyright: ignore[reportAttributeAccessIssue]
    guided = bool(config.data.guided) and trunk is not None and trunk.guide
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    objective = Objective(config.loss).to(accelerator.device)
    model, optimizer = accelerator.prepare(model, build_optimizer(config, model))
    plain: TADiSR = accelerator.unwrap_model(model)
    trained = [p for p in plain.parameters() if p.requires_grad]
    ema = EMA(plain, config.ema) if config.ema else None
    checkpoints = Checkpoints(out / "checkpoints", accelerator, keep=config.keep)
    step, notes = checkpoints.load(model, optimizer, ema)
    watch, best = Watch(config.explosion, notes.get("watch")), Best(notes.get("best"))
    batches = iter(make_loader(config, accelerator, step, needs_mask))
    panel = validation = None
    if config.panel or config.validate.every:
        samples, count = open_held_out_samples(
            config.data, seed=config.seed, needs_mask=needs_mask, names=config.validate.sources
        )
        panel = Panel(samples, min(config.panel, count or config.panel)) if config.panel else None
        validation = Validation(config.validate, samples, count, accelerator) if config.validate.every else None
    journal = Journal(out, step) if accelerator.is_main_process else None
    bar.initial = bar.n = step
    speed = Speed(enabled=not config.compile and accelerator.distributed_type == DistributedType.NO)
    waited, begun = 0.0, time.perf_counter()
    values: dict[str, float] = {}
    norm: Any = None  # of the last step's gradient, before it is cut

    while step < config.steps:
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        passes: list[dict[str, float]] = []
        for _ in range(config.accumulate):
            asked = time.perf_counter()
            batch: Any = send_to_device(next_batch(batches), accelerator.device, non_blocking=True)
            waited += time.perf_counter() - asked
            speed.count(partial(plain, batch["upscaled"]))
            with accelerator.accumulate(model), speed.measure():
                with accelerator.autocast():
                    upscaled = batch["upscaled"].to(memory_format=layout)
                    result = model(upscaled, guide=batch["guide"]) if guided else model(upscaled)
                terms = objective(
                    result.image.float(),
                    _float(result.mask_logits),
                    batch["hr"],
                    batch["mask"],
                    upscaled=batch["upscaled"],
                    log_variance=_float(result.log_variance),
                    known=batch["known"],
                )
                passes.append(values := mean_over_processes(terms, accelerator))
                # A likelihood may be below zero, where a multiple of the running mean says nothing.
                problem = watch.find_problem(values["total"] - values.get("certainty", 0.0))
                if problem is not None:  # the weights are still those of the last good step
                    checkpoints.save(step, model, optimizer, ema, {"watch": watch.state(), "best": best.scores})
                    raise TADiSRError(explain_stop(config, problem, step, values, accelerator.num_processes))
                accelerator.backward(terms["total"])
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(trained, config.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        values = {name: fmean(one[name] for one in passes) for name in values}
        step += 1
        bar.update(1)
        if ema is not None:
            ema.update(plain, step)
        if journal and step % config.log_every == 0:
            now = time.perf_counter()
            rhythm = config.log_every / (now - begun)
            extra = {"lr": rate, "gradient": float(norm or 0.0), "waiting": waited / (now - begun)}
            extra |= {"steps_per_second": rhythm, **speed.scalars(rhythm * config.accumulate)}
            journal.write("log.csv", step, {**values, **extra})
            waited, begun = 0.0, now
            bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})

        last = step == config.steps
        if stop.signal is not None and not last:
            checkpoints.save(step, model, optimizer, ema, {"watch": watch.state(), "best": best.scores})
            raise Stopped(stop.signal, f"The state of step {step} is saved: start the same command again to resume.")
        due = {
            name: last or step % every == 0
            for name, every in (("save", config.checkpoint_every), ("panel", config.panel_every))
        }
        due["validate"] = validation is not None and (last or step % config.validate.every == 0)
        if not any(due.values()):
            continue
        paused = time.perf_counter()
        if ema is not None:
            ema.swap(plain)
        keep = ["model"] if due["save"] else []
        with accelerator.autocast():
            if panel is not None and due["panel"]:
                scores = panel.draw(plain, out / f"panel-{step:07d}.png" if journal else None)
                if journal:
                    log.info("step %d: %s", step, json.dumps(scores))
            if validation is not None and due["validate"]:
                scores = validation.score(plain)
                keep += [f"best-{name}" for name in best.update_best(scores)]
                if journal:
                    journal.write("validation.csv", step, scores, prefix="validation/")
        if keep:
            tensors = {name: gather_tensor(tensor) for name, tensor in adapter.trained_tensors(plain).items()}
            for name in keep if journal else []:
                training = training_record(config, step, accelerator.num_processes)
                adapter.save_checkpoint(plain, out / f"{name}.safetensors", tensors=tensors, training=training)
        if ema is not None:
            ema.swap(plain)
        if due["save"]:
            checkpoints.save(step, model, optimizer, ema, {"watch": watch.state(), "best": best.scores})
        begun += time.perf_counter() - paused
    if journal:
        journal.close()
    accelerator.end_training()
    return out


def explain_stop(config: FitConfig, problem: str, step: int, values: dict[str, float], world: int) -> str:
    """Explain why a run stops itself, in one sentence with step, loss and gradient."""
    per_step = config.batch * config.accumulate * world
    terms = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return (
        f"{problem} at step {step} ({terms}; samples {step * per_step} to {(step + 1) * per_step - 1}). The state before "
        f"this step is saved in {config.out}/checkpoints: resume from it with a smaller lr, or, where it is fp16 that "
        "overflows, with precision=bf16."
    )


def mean_over_processes(terms: dict[str, Tensor], accelerator: Accelerator) -> dict[str, float]:
    """Average each term over all processes."""
    together = torch.stack([term.detach().float() for term in terms.values()])
    return dict(zip(terms, accelerator.reduce(together, "mean").tolist(), strict=True))  # pyright: ignore


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


def main(argv: list[str] | None = None) -> int:
    escape_unknown_characters()
    parser = argparse.ArgumentParser(prog="python -m train.fit", description="Train a model.")
    parser.add_argument("config", help="a YAML file, see train/configs/")
    parser.add_argument("overrides", nargs="*", help="key=value over the file, for instance steps=100 data.crop=64")
    parser.add_argument("--restart", action="store_true", help="throw the run's folder away and begin anew")
    arguments = parser.parse_intermixed_args(argv)
    keep_buffers()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    with report_in_one_sentence():
        config = settings.read_config(arguments.config, arguments.overrides)
        log.info("done: %s", run_training(config, restart=arguments.restart))
    return 0


if __name__ == "__main__":
    sys.exit(main())
