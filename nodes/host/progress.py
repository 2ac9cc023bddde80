"""A node's bar, previews, interrupt and messages."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.model_management as mm
import comfy.utils
from server import PromptServer
from torch import Tensor

from ...tadisr.images import to_pil

log = logging.getLogger("tadisr")


class Progress:
    """A callback that moves the node's bar, shows the last preview it was given, and lets the host interrupt."""

    def __init__(self, node_id: str) -> None:
        self.bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self.picture: Tensor | None = None

    def __call__(self, done: int, total: int) -> None:
        mm.throw_exception_if_processing_interrupted()
        shown = None
        if self.picture is not None and done < total:  # one in the last step would stay over the result
            shown = ("JPEG", to_pil(self.picture).convert("RGB"), max(self.picture.shape[-2:]))
        self.bar.update_absolute(done, total, shown)

    def preview(self, picture: Tensor) -> None:
        """Keep an image (1, 3, H, W) in [0, 1] as the preview of the next step."""
        self.picture = picture


def message_sender(node_id: str) -> Callable[[str], None]:
    """Return a function that shows one sentence in the log and on the node."""

    def tell(text: str) -> None:
        log.warning(text)
        PromptServer.instance.send_progress_text(text, node_id)

    return tell
