"""Training, one linear loop: `python -m train.fit train/configs/compact.yaml [key=value ...]`.

A run lives in its `out` folder: `last/` (all that resuming needs), `model.safetensors` (the weights, EMA if there
is one), `log.csv`, `events.*` for tensorboard, `panel-NNNNNNN.png`. Starting it again goes on where it stood.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter  # pyright: ignore[reportPrivateImportUsage]
from tqdm import tqdm

from tadisr import adapter
from tadisr.errors import TADiSRError
from tadisr.files import write_atomic
from tadisr.image import resize
from tadisr.lora import add_lora
from tadisr.model import TADiSR

from . import settings
from .data.rendered import RenderedText
from .losses import Objective
from .panel import Panel
from .settings import FitConfig

log = logging.getLogger("train.fit")


def build_model(config: FitConfig) -> TADiSR:
    """The network to train: all of it, or LoRA and the added parts on a frozen base."""
    model_config = settings.model_config(config.model)
    if model_config.lora is None:
        model = TADiSR(model_config)
    else:
        from tadisr.kolors.base import load_base

        model = load_base(config.base, model_config)
        add_lora(model, model_config.lora)
    if config.init is not None:
        adapter.load_tensors(model, config.init)
    return model.train()


def triplets(config: FitConfig, *, seed: int) -> RenderedText:
    data = config.data
    return RenderedText(
        crop=data.crop,
        seed=seed,
        backgrounds=[Path(folder) for folder in data.backgrounds],
        fonts=[Path(folder) for folder in data.fonts],
        degradation=data.degradation,
        camera=data.camera,
    )


def learning_rate(config: FitConfig, step: int) -> float:
    """Linear warm-up, then constant as in the paper, or a cosine down to a hundredth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


class EMA:
    """An exponential moving average of the trained weights, nearer to them while the run is young."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                self.shadow[name].lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the model's weights with the averaged ones; a second call brings them back."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                kept = parameter.detach().clone()
                parameter.copy_(self.shadow[name])
                self.shadow[name].copy_(kept)


def save_state(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> None:
    """Everything a resumed run needs, written beside and then renamed."""
    state = {
        "step": step,
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "ema": ema.shadow if ema else None,
        "torch_rng": torch.get_rng_state(),
        "numpy_rng": np.random.get_state()[1].tolist(),  # pyright: ignore[reportArgumentType, reportIndexIssue, reportAttributeAccessIssue]
        "python_rng": json.dumps(random.getstate()),
    }
    write_atomic(folder / "state.pt", lambda temporary: torch.save(state, temporary))


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, ema: EMA | None) -> int:
    """Bring back what `save_state` wrote; the step to go on from, 0 where there is nothing."""
    path = folder / "state.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if ema is not None:
        for name, tensor in state["ema"].items():
            ema.shadow[name].copy_(tensor)
    torch.set_rng_state(state["torch_rng"])
    kind, _, *rest = np.random.get_state()
    np.random.set_state((kind, np.array(state["numpy_rng"], dtype=np.uint32), *rest))  # pyright: ignore[reportArgumentType]
    version, internal, gauss = json.loads(state["python_rng"])
    random.setstate((version, tuple(internal), gauss))
    return state["step"]


def truncate_log(path: Path, step: int) -> None:
    """Drop the rows a killed run wrote after its last checkpoint."""
    if path.exists():
        rows = path.read_text().splitlines()
        kept = rows[:1] + [row for row in rows[1:] if int(row.split(",", 1)[0]) <= step]
        path.write_text("\n".join(kept) + "\n")


class Log:
    """Scalars to a CSV and to tensorboard."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "log.csv"
        truncate_log(self.path, step)
        self.board = SummaryWriter(str(folder), purge_step=step)

    def write(self, step: int, values: dict[str, float]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *values])
            writer.writerow([step, *(f"{value:.6g}" for value in values.values())])
        for name, value in values.items():
            self.board.add_scalar(name, value, step)


def record(config: FitConfig, step: int) -> dict[str, Any]:
    """What a checkpoint's header says of its training."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "steps": step,
        "batch": config.batch,
        "lr": config.lr,
        "seed": config.seed,
        "commit": commit or "unknown",
        "data": {key: settings.to_dict(config)["data"][key] for key in ("kind", "crop", "degradation", "camera")},
        "loss": settings.to_dict(config)["loss"],
        "init": None if config.init is None else adapter.read_header(config.init).training,
    }


def fit(config: FitConfig) -> Path:
    """Run (or go on with) the training that `config` describes; the folder it wrote. Deterministic on one machine."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.precision)
    model = build_model(config)
    objective = Objective(config.loss).to(accelerator.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.lr, weight_decay=config.weight_decay)
    ema = EMA(model, config.ema) if config.ema else None
    step = load_state(out / "last", model, optimizer, ema)
    per_step = config.batch * accelerator.num_processes
    loader = DataLoader(
        triplets(config, seed=config.seed),
        batch_size=config.batch,
        sampler=range(step * per_step, config.steps * per_step),  # the samples not yet seen, in order
        num_workers=config.data.workers,
        worker_init_fn=lambda _: cv2.setNumThreads(0),
        multiprocessing_context="fork" if config.data.workers else None,
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    plain: TADiSR = accelerator.unwrap_model(model)
    if ema is not None:
        ema.shadow = {name: tensor.to(accelerator.device) for name, tensor in ema.shadow.items()}
    panel = Panel(triplets(config, seed=config.seed + 1_000_003), config.panel)
    journal = Log(out, step)
    bar = tqdm(total=config.steps, initial=step, disable=not accelerator.is_main_process, mininterval=5)
    waited, begun = 0.0, time.perf_counter()

    batches = iter(loader)
    while step < config.steps:
        asked = time.perf_counter()
        batch: dict[str, Tensor] = next(batches)
        waited += time.perf_counter() - asked
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        upscaled = resize(batch["lr"], (config.data.crop, config.data.crop))
        with accelerator.autocast():
            result = model(upscaled)
        terms = objective(result.image.float(), _float(result.mask_logits), batch["hr"], batch["mask"])
        if not torch.isfinite(terms["total"]):
            raise TADiSRError(
                f"The loss is {terms['total'].item()} at step {step}; {out}/last holds the last good state."
            )
        accelerator.backward(terms["total"])
        accelerator.clip_grad_norm_(trained, config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update(1)
        if ema is not None:
            ema.update(plain, step)
        if not accelerator.is_main_process:
            continue
        if step % config.log_every == 0:
            elapsed = time.perf_counter() - begun
            values = {name: term.item() for name, term in terms.items()}
            journal.write(step, {**values, "lr": learning_rate(config, step - 1), "waiting": waited / elapsed})
            bar.set_postfix({name: f"{value:.4f}" for name, value in values.items()})
        due = step == config.steps
        if due or step % config.panel_every == 0 or step % config.checkpoint_every == 0:
            if ema is not None:
                ema.swap(plain)
            if due or step % config.checkpoint_every == 0:
                adapter.save(plain, out / "model.safetensors", training=record(config, step))
            if due or step % config.panel_every == 0:
                scores = panel.draw(plain, out / f"panel-{step:07d}.png")
                journal.board.add_scalars("panel", scores, step)
                log.info("step %d: %s", step, json.dumps(scores))
            if ema is not None:
                ema.swap(plain)
        if due or step % config.checkpoint_every == 0:
            save_state(out / "last", step, plain, optimizer, ema)
    bar.close()
    journal.board.close()
    return out


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.fit", description="Train a model.")
    parser.add_argument("config", help="a YAML file, see train/configs/")
    parser.add_argument("overrides", nargs="*", help="key=value over the file, for instance steps=100 data.crop=64")
    parser.add_argument("--restart", action="store_true", help="throw the run's folder away and begin anew")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        config = settings.read(arguments.config, arguments.overrides)
        if arguments.restart:
            shutil.rmtree(config.out, ignore_errors=True)
        log.info("done: %s", fit(config))
    except TADiSRError as error:
        sys.exit(f"error: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
