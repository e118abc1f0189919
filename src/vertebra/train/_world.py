"""One process, or several that train together: who this one is, and how they share.

torch's own DDP, started by torchrun; without it, everything here is a matter of one process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from vertebra.machine import usable_cores

# Rank 0 looks through all photos before the others have anything to do. One that died is noticed at once.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class World:
    """One process among those that train together."""

    rank: int
    size: int
    local_size: int  # processes on this machine
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes what there is only one of."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Of all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Of all processes, in place; whole numbers are left alone."""
        if self.size > 1:
            for tensor in tensors:
                if tensor.is_floating_point():
                    dist.all_reduce(tensor)
                    tensor.div_(self.size)

    def replicate(self, network: nn.Module) -> nn.Module:
        """The module to call: gradients are averaged. Running statistics stay apart until `average`."""
        if self.size == 1:
            return network
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # Newer versions have another name for it, older ones only this.
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def apart(module: Any, *, last: bool) -> AbstractContextManager[None]:
    """Around all parts of a step but the last: gradients are added up before they are shared."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


def current_world() -> World:
    """The process as torchrun started it, or alone."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local_size, local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= local_size
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    if not on_gpu:
        torch.set_num_threads(max(1, usable_cores() // local_size))
    return World(rank, size, local_size, device)
