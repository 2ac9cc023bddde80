"""A node's bar, previews, interrupt and messages."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable

import comfy.model_management as mm
import comfy.utils
from server import PromptServer
from torch import Tensor

from ...tadisr.images import to_pil
from ...tadisr.inference.time_left import TimeLeft

log = logging.getLogger("tadisr")

SHORT = 10.0  # seconds: a job that takes less is not counted aloud
SPOKEN = 30.0  # seconds between two lines of the log


class Progress:
    """A callback that moves the node's bar, shows the last preview it was given, and lets ComfyUI interrupt.

    The preview of the last step stays on the node, for which it has to show the whole: our nodes show no image of their own.

    unit: what is counted, as "tile"; given, a job of more than 10 s says on the node how many are done and how long the
    rest takes, and every 30 s in the log.
    """

    def __init__(self, node_id: str, unit: str | None = None) -> None:
        self.node_id, self.unit = node_id, unit
        self.bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self.picture: Tensor | None = None
        self.time, self.logged = TimeLeft(), 0.0

    def __call__(self, done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        shown = None
        if self.picture is not None:
            shown = ("JPEG", to_pil(self.picture).convert("RGB"), max(self.picture.shape[-2:]))
        self.bar.update_absolute(done, total, shown)
        if self.unit is not None and total > 1:
            self.count(done, total, self.unit)

    def count(self, done: int, total: int, unit: str) -> None:
        if self.time.elapsed * total / done < SHORT:
            return
        text = self.time.describe(done, total, unit)
        show_text(self.node_id, text[0].upper() + text[1:])
        if done == total or self.time.elapsed - self.logged >= SPOKEN:
            self.logged = self.time.elapsed
            log.info(text[0].upper() + text[1:])

    def preview(self, picture: Tensor) -> None:
        """Keep an image (1, 3, H, W) in [0, 1] as the preview of the next step."""
        self.picture = picture


def show_text(node_id: str, text: str) -> None:
    """Show a text on the node, in place of the one before. The page takes it as HTML: markup in names is escaped."""
    PromptServer.instance.send_progress_text(html.escape(text, quote=False), node_id)


def message_sender(node_id: str) -> Callable[[str], None]:
    """Return a function that shows one sentence in the log and on the node."""

    def tell(text: str) -> None:
        log.warning(text)
        show_text(node_id, text)

    return tell
