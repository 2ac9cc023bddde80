"""train.fit under FSDP on the CPU, which accelerate itself offers for accelerators only: run by test_distributed.py.

Everything but the word that says so is what a GPU run does: accelerate prepares the model, torch splits it over gloo.
"""

from __future__ import annotations

import sys

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from train import fit

plain_init = AcceleratorState.__init__


def init(self: AcceleratorState, *args: object, **kwargs: object) -> None:
    plain_init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="TRANSFORMER_BASED_WRAP",
            transformer_cls_names_to_wrap=["BasicTransformerBlock", "ResnetBlock2D"],
        )  # fmt: skip


AcceleratorState.__init__ = init
torch.set_num_threads(1)
sys.exit(fit.main(sys.argv[1:]))
