"""Step 3: the kept crops as files, small ones brought up by a Real-SR model first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tadisr.errors import CheckpointError, ConfigError
from tadisr.images import from_pixels, to_pixels

from ..config import EnhanceConfig, to_dict
from ..engine.journal import Record, write_lines
from ..engine.step import Pixels, Step, hash_model, hash_steps, split_groups, write_png
from .masks import load_masked

AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Enhance(Step):
    """Records: the crop's and the mask's files, their size, and by how much it was brought up."""

    name = "enhance"
    on_device = True

    masks: Step
    filter: Step
    crops: tuple[Record, ...] = ()  # what `filter` kept

    def describe_settings(self) -> Record:
        model = self.config.enhance.model
        own = to_dict(self.config.enhance) | {"model": model if model == "off" else hash_model(model)}
        return {"enhance": own, "after": hash_steps(self.filter)}

    def list_chunks(self) -> dict[int, Any]:
        return dict(enumerate(split_groups(list(self.crops), AT_ONCE)))

    def __call__(self, chunk: Any) -> list[Record]:
        records = list[Record]()
        for crop in chunk:
            item, mask = load_masked(self.config.foregrounds[crop["foreground"]], crop, self.masks.folder)
            left, top, right, bottom = crop["box"]
            window = np.s_[top:bottom, left:right]
            picture, mask, factor = enhance_crop(item.image[window], mask[window], self.config.enhance, self.device)
            name = f"{crop['foreground']}/{crop['index'] // 1000:06d}/{crop['id']}"
            record = {"id": crop["id"], "file": f"{name}.png", "mask": f"{name}.mask.png", "enhanced": factor}
            write_png(self.folder / record["file"], picture)
            write_png(self.folder / record["mask"], mask)
            records.append({**record, "size": [picture.shape[1], picture.shape[0]]})
        return records

    def written_files(self, record: Record) -> list[Path]:
        return [self.folder / record["file"], self.folder / record["mask"]]

    def __getstate__(self) -> Record:
        return {**self.__dict__, "crops": ()}

    @property
    def pool(self) -> Path:
        return self.folder / "pool.jsonl"

    def write_pool(self, records: Iterable[Record]) -> None:
        """Write all crops that compositions draw from, with what was read in them."""
        by_id = {crop["id"]: crop for crop in self.crops}
        write_lines(self.pool, ({**by_id[record["id"]], **record} for record in records))


def enhance_crop(picture: Pixels, mask: Pixels, config: EnhanceConfig, device: str) -> tuple[Pixels, Pixels, int]:
    """Enhance a crop and resize its mask alike (Lanczos); return both and the factor, 1 if the crop is large enough."""
    height, width = mask.shape
    if config.model == "off" or (config.below is not None and min(height, width) >= config.below):
        return picture, mask, 1
    model = load_model(config.model, device)
    with torch.inference_mode():
        up = to_pixels(model(from_pixels(picture).to(device)))
    size = (width * model.scale, height * model.scale)
    return up, np.array(Image.fromarray(mask).resize(size, Image.Resampling.LANCZOS)), model.scale


@lru_cache(maxsize=1)
def load_model(path: str, device: str) -> Any:
    """Load a Real-SR model of three channels from a file that spandrel knows. Raises ConfigError, CheckpointError."""
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except ImportError as error:
        raise ConfigError("Enhancing crops needs spandrel: pip install spandrel, or enhance.model=off.") from error
    if not Path(path).is_file():
        raise CheckpointError(f"There is no model {path}: name a Real-SR file in enhance.model, or off.")
    try:
        model = ModelLoader(device=torch.device(device)).load_from_file(path)
    except Exception as error:  # whatever its unpickler and detectors raise
        raise CheckpointError(f"{path} is no model that spandrel knows: {error}") from error
    if not isinstance(model, ImageModelDescriptor) or (model.input_channels, model.output_channels) != (3, 3):
        raise CheckpointError(f"{path} does not take one RGB image to one RGB image, as a Real-SR model does.")
    return model.eval()
