"""Fine-tune SAM-TS on images with masks of their strokes (TextSeg and BTS, Sec. 3.5): adapters, aligner, decoder.

A run lives in its `out` folder: `last/state.pt` (all that resuming needs) and the one before it, `model.safetensors` (the
whole segmenter), `log.jsonl`. Starting it again resumes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from tadisr.atomic_write import write_atomic
from tadisr.errors import CheckpointError, ConfigError, TADiSRError
from tadisr.validation import build_dataclass

from ..command_errors import Stopped, StopRequest, catch_stop_signals, ignore_stop_signals
from ..config import Loader, merge_tables, parse_override
from ..data.sources import Source, SourceError, open_source
from ..losses import dice_loss, focal_loss
from ..run_files import read_intact, read_rows
from ..run_lock import lock_folder
from .run import SamTSSegmenter
from .sam_ts import checkpoint
from .sam_ts.network import MEAN, VARIANTS, Prediction, SamTS, SamTSConfig
from .score import score_segmenter

log = logging.getLogger(__name__)

STATES = ("state.pt", "before.pt")  # in OUT/last, the newest first


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Defaults are Hi-SAM's: AdamW at 1e-4, weight decay 0.05, 70 epochs, squares of 1024."""

    out: str
    sources: list  # tables of kind, path and the kind's options; every item needs a mask
    validation: list = field(default_factory=list)
    sam: str | None = None  # SAM's own weights, to start from or to complete `init`
    init: str | None = None  # a SAM-TS to start from
    model: str | SamTSConfig | None = None  # vit_b, vit_l, vit_h; None: told from the weights
    epochs: int = 70
    batch: int = 1
    lr: float = 1e-4
    drop_at: float = 0.8  # of the run: from here on a tenth of lr
    weight_decay: float = 0.05
    clip: float = 1.0
    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    scale: tuple[float, float] = (0.5, 2.0)  # of the longer side against the square, drawn for each image
    tint: float = 0.2  # how far brightness, contrast and saturation wander
    precision: str = "no"  # fp16 or bf16 on a GPU
    workers: int = 2
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    validate_every: int = 5000
    validation_limit: int = 100


def read_config(path: str | Path, overrides: list[str] | None = None) -> FitConfig:
    """Read a YAML file and apply `key=value` overrides. Raises ConfigError."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"There is no config {path}.")
    table = yaml.load(path.read_text("utf-8"), Loader)
    for override in overrides or []:
        table = merge_tables(table, parse_override(override))
    return build_dataclass(FitConfig, table, path.name)


# ---- data -----------------------------------------------------------------------------------------------------------


class Squares(Dataset[dict[str, Tensor]]):
    """`image` (3, S, S) in 0..255 and `mask` (1, S, S) in 0..1, without end: sample i is drawn from (seed, i) alone.

    Each epoch is a permutation of all items. An image is scaled, cut or padded to the square, its colours moved a
    little; never mirrored, for text is not.
    """

    def __init__(self, sources: list[Source], config: FitConfig, side: int) -> None:
        self.sources, self.config, self.side = sources, config, side
        self.ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, len(self))
        number = int(np.random.default_rng([self.config.seed, epoch]).permutation(len(self))[place])
        which = int(np.searchsorted(self.ends, number, side="right"))
        source = self.sources[which]
        item = source[number - int(self.ends[which])]
        if item.mask is None:
            raise SourceError(f"{source.name}: {item.key} has no mask to learn from.")
        image, mask = self._square(item.image, item.mask, np.random.default_rng([self.config.seed, 1, index]))
        return {"image": torch.from_numpy(image).permute(2, 0, 1), "mask": torch.from_numpy(mask)[None]}

    def _square(self, image: np.ndarray, mask: np.ndarray, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
        height, width = image.shape[:2]
        factor = self.side / max(height, width) * np.exp(rng.uniform(*np.log(self.config.scale)))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        image, mask = (cv2.resize(array, size, interpolation=way) for array in (image, mask))
        top, left = (int(rng.integers(max(0, extent - self.side) + 1)) for extent in image.shape[:2])
        cut = np.s_[top : top + self.side, left : left + self.side]
        colors = np.full((self.side, self.side, 3), MEAN, np.float32)  # padding is nothing after normalisation
        truth = np.zeros((self.side, self.side), np.float32)
        piece = image[cut]
        colors[: piece.shape[0], : piece.shape[1]] = self._tint(piece.astype(np.float32), rng)
        truth[: piece.shape[0], : piece.shape[1]] = mask[cut].astype(np.float32) / 255
        return colors, truth

    def _tint(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        light, contrast, saturation = rng.uniform(-self.config.tint, self.config.tint, 3)
        grey = image.mean(-1, keepdims=True)
        image = grey + (image - grey) * (1 + saturation)
        middle = image.mean()
        return ((image - middle) * (1 + contrast) + middle + 255 * light).clip(0, 255).astype(np.float32)


# ---- the objective --------------------------------------------------------------------------------------------------


def compute_loss(found: Prediction, mask: Tensor, config: FitConfig) -> dict[str, Tensor]:
    """Compute 20 focal + dice + (predicted IoU - IoU)^2 for the low- and the high-resolution mask. mask (B, 1, S, S);
    `total` is the sum.
    """
    terms: dict[str, Tensor] = {}
    low = F.interpolate(found.low.float(), mask.shape[-2:], mode="bilinear", align_corners=False)
    for name, logits, expected in (("low", low, found.low_iou), ("high", found.high.float(), found.high_iou)):
        terms[f"{name}_focal"] = config.focal * focal_loss(logits, mask, 0.25, 2.0)
        terms[f"{name}_dice"] = config.dice * dice_loss(logits.sigmoid(), mask)
        terms[f"{name}_iou"] = config.iou * F.mse_loss(expected.float(), compute_iou(logits > 0, mask > 0.5))
    return {**terms, "total": torch.stack(list(terms.values())).sum()}


def compute_iou(found: Tensor, truth: Tensor) -> Tensor:
    """Compute the intersection over union of boolean masks (B, 1, H, W) -> (B, 1)."""
    both, either = (found & truth).flatten(1).sum(1), (found | truth).flatten(1).sum(1)
    return (both / either.clamp_min(1))[:, None]


# ---- the run --------------------------------------------------------------------------------------------------------


def build_start(config: FitConfig) -> SamTS:
    """Build SAM-TS from SAM's weights, or load the segmenter to continue from."""
    shape = VARIANTS.get(config.model) if isinstance(config.model, str) else config.model
    if isinstance(config.model, str) and shape is None:
        raise ConfigError(f"There is no SAM-TS {config.model!r}; known are {', '.join(VARIANTS)}.")
    if config.init is not None:
        return checkpoint.load_sam_ts(config.init, sam=config.sam, config=shape)
    if config.sam is None:
        raise ConfigError("Training starts from SAM's weights (sam: sam_vit_*.pth) or a SAM-TS (init): name one.")
    return checkpoint.from_sam(config.sam, config=shape)


def trained_parameters(model: SamTS) -> dict[str, Tensor]:
    """Return the parameters that are trained, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_state(folder: Path, step: int, model: SamTS, optimizer: torch.optim.Optimizer) -> None:
    """Write FOLDER/state.pt, whole or not at all; the one before stays as before.pt."""
    state = {
        "step": step,
        "learned": {name: p.detach() for name, p in trained_parameters(model).items()},
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
    }
    new, path = folder / "new.pt", folder / STATES[0]
    write_atomic(new, lambda temporary: torch.save(state, temporary))
    if path.exists():
        path.replace(folder / STATES[1])
    new.replace(path)


def load_state(folder: Path, model: SamTS, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest intact state, and return its step; 0 where there is none. Raises CheckpointError.

    A damaged one is said, and the one before it is taken.
    """
    paths = [path for name in STATES if (path := folder / name).exists()]
    for path in paths:
        try:
            state = read_intact(path)
        except CheckpointError as error:
            log.warning("%s The run resumes from the state before it.", error)
            continue
        try:
            with torch.no_grad():
                for name, parameter in trained_parameters(model).items():
                    parameter.copy_(state["learned"][name])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["torch_rng"])
            return int(state["step"])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{path} does not fit the config ({str(error).splitlines()[0]:.200}): put the config back, or choose "
                "another out."
            ) from error
    if paths:
        raise CheckpointError(
            f"No state in {folder} is intact: choose another out, or delete the folder to begin anew."
        )
    return 0


class Log:
    """One JSON object a line; what a killed run wrote after its last checkpoint is dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        rows = read_rows(path, lambda row: isinstance(row.get("step"), int))
        text = "".join(f"{json.dumps(row)}\n" for row in rows if row["step"] <= step)
        write_atomic(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one JSON object with the step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{k: float(f"{v:.6g}") for k, v in values.items()}}) + "\n")


def init_worker(_: int) -> None:
    """Limit a data worker to one thread, and let the parent handle stop signals."""
    cv2.setNumThreads(0)
    ignore_stop_signals()


def train_segmenter(config: FitConfig) -> Path:
    """Run or resume the training that `config` describes, and return the segmenter's file.

    Raises Stopped after SIGTERM or Ctrl-C, when the step is saved; ConfigError where another run writes to the folder.
    """
    set_seed(config.seed)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # SAM's three other masks
    accelerator = Accelerator(mixed_precision=config.precision, kwargs_handlers=[unused])
    alone = lock_folder(Path(config.out), "run") if accelerator.is_main_process else nullcontext()
    with alone, catch_stop_signals(at_once=accelerator.num_processes > 1) as stop:
        return train(config, accelerator, stop)


def train(config: FitConfig, accelerator: Accelerator, stop: StopRequest) -> Path:
    """Train until the end, or until `stop` has a signal."""
    out = Path(config.out)
    model = build_start(config).train()
    model.learn_text_only()
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=config.lr, weight_decay=config.weight_decay)
    step = load_state(out / "last", model, optimizer)
    squares = Squares([open_source(**table) for table in config.sources], config, model.config.image)
    judged = [open_source(**table) for table in config.validation]
    per_step = config.batch * accelerator.num_processes
    steps = max(1, config.epochs * len(squares) // per_step)
    loader = DataLoader(
        squares,
        batch_size=config.batch,
        sampler=range(step * per_step, steps * per_step),  # the samples not yet seen, in order
        num_workers=config.workers,
        worker_init_fn=init_worker,
        multiprocessing_context="fork" if config.workers else None,
    )
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    journal = Log(out / "log.jsonl", step) if accelerator.is_main_process else None
    bar = tqdm(total=steps, initial=step, disable=not accelerator.is_main_process, mininterval=5)

    for batch in loader:
        for group in optimizer.param_groups:
            group["lr"] = config.lr * (1 if step < config.drop_at * steps else 0.1)
        with accelerator.autocast():
            found = wrapped(model.prepare(batch["image"]))
        terms = compute_loss(found, batch["mask"], config)
        if not torch.isfinite(terms["total"]):
            raise TADiSRError(
                f"The loss is {terms['total'].item()} at step {step}; {out}/last holds the last good state."
            )
        accelerator.backward(terms["total"])
        accelerator.clip_grad_norm_(trained_parameters(model).values(), config.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        bar.update(1)
        if journal is None:
            continue
        due = step == steps
        if due or step % config.log_every == 0:
            journal.write(step, {name: term.item() for name, term in terms.items()})
        if judged and (due or step % config.validate_every == 0):
            model.eval()
            running = SamTSSegmenter(Path("in training"), model=model, device=str(accelerator.device))
            scores = score_segmenter(running, judged, config.validation_limit)
            model.train()
            journal.write(step, scores)
            log.info("step %d: %s", step, json.dumps(scores))
        ending = stop.signal  # read once: one that comes later waits for the next step
        if due or ending is not None or step % config.checkpoint_every == 0:
            checkpoint.save_sam_ts(model, out / "model.safetensors", training=training_record(config, step))
            save_state(out / "last", step, model, optimizer)
        if ending is not None and not due:
            raise Stopped(ending, f"The state of step {step} is saved: start the same command again to resume.")
    bar.close()
    return out / "model.safetensors"


def training_record(config: FitConfig, step: int) -> dict[str, Any]:
    """Return what the segmenter's header records of its training."""
    table = dataclasses.asdict(config)
    kept = ("epochs", "batch", "lr", "seed", "sam", "init")
    kinds = [{k: v for k, v in source.items() if k != "path"} for source in config.sources]
    names = {k: Path(table[k]).name if k in ("sam", "init") and table[k] else table[k] for k in kept}
    return {"steps": step, **names, "sources": kinds}
