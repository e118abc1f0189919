"""One process, or several that train together: who this one is, and how they share.

torch's own DDP, started by torchrun; without it, everything here is a matter of one process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from vertebra.errors import first_line
from vertebra.machine import usable_cores

from .run_folder import TrainError

# One that died is noticed at once; these are for one that hangs, or whose machine is cut off.
_STEP_TIMEOUT = timedelta(minutes=30)
# Rank 0 prepares all photos before the others have anything to do, and exports after they are done.
_PREPARE_TIMEOUT = timedelta(hours=12)

# Over the CPU whatever the device is, so that asking waits for no GPU; made with the first `init_distributed`.
_groups: dict[timedelta, Any] = {}


class LostProcessError(RuntimeError):
    """Another process ended or cannot be reached, and could not say why."""


@dataclass(frozen=True)
class Distributed:
    """One process among those that train together."""

    rank: int
    size: int
    local_size: int  # processes on this machine
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes what there is only one of."""
        return self.rank == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place. Values on the CPU wait for no GPU."""
        if self.size > 1:
            with _naming_lost_process():
                dist.all_reduce(values, group=None if values.is_cuda else _groups[_STEP_TIMEOUT])
        return values

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """The value of the first process; every process must call it."""
        found = [value]
        if self.size > 1:
            with _naming_lost_process():
                dist.broadcast_object_list(found, group=_groups[_PREPARE_TIMEOUT])
        return found[0]

    def first_value(self, value: Any, within: timedelta = _STEP_TIMEOUT) -> Any:
        """The value of the first process that has one, None where no process has; every process must call it."""
        if self.size == 1:
            return value
        with _naming_lost_process():
            rank = torch.tensor(self.size if value is None else self.rank)
            dist.all_reduce(rank, dist.ReduceOp.MIN, group=_groups[within])
            found = [value]
            if rank < self.size:
                dist.broadcast_object_list(found, src=int(rank), group=_groups[within])
        return found[0]

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Around what some processes do while the others wait: where one fails, all of them do.

        Every process must go in. Outside, each one's own error is raised as it is, or a `TrainError` that says what
        another one's says, as `raised_by_all` marks it.
        """
        if self.size == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except LostProcessError:
            raise
        except Exception as raised:  # whatever it is, the others must not wait for this process
            own = raised
        code = getattr(own, "exit_code", 1)
        found = self.first_value(None if own is None else (str(own) or type(own).__name__, code), _PREPARE_TIMEOUT)
        if found is None:
            return
        error = own or TrainError(found[0])
        vars(error).update(exit_code=found[1])
        raise self.raised_by_all(error)

    def raised_by_all(self, error: Exception) -> Exception:
        """An error that every process raises; `is_reported_by_first` where the first process prints it."""
        vars(error).update(is_reported_by_first=not self.is_first)
        return error

    def all_reduce_mean(self, tensors: Iterable[Tensor]) -> None:
        """The mean over all processes, in place; integers are left alone."""
        if self.size > 1:
            for tensor in tensors:
                if tensor.is_floating_point():
                    dist.all_reduce(tensor)
                    tensor.div_(self.size)

    def wrap_ddp(self, network: nn.Module) -> nn.Module:
        """The module to call: gradients are averaged. Running statistics stay local until `all_reduce_mean`."""
        if self.size == 1:
            return network
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # Newer versions have another name for it, older ones only this.
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def no_sync(module: Any, *, last: bool) -> AbstractContextManager[None]:
    """Around all micro-batches of a step but the last: gradients are accumulated before they are synchronised."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


@contextmanager
def _naming_lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo has no exception of its own
        raise LostProcessError(first_line(error)) from error


def is_lost_process(error: RuntimeError) -> bool:
    """Whether the error says that another process, or a worker of the DataLoader, has ended."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        sign in text for sign in ("DataLoader worker", "gloo", "Connection closed by peer", "Connection reset")
    )


def init_distributed() -> Distributed:
    """The process as torchrun started it, or alone."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    local_size, local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= local_size
    device = torch.device("cuda", local) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=_STEP_TIMEOUT)
        _groups.update(
            {within: dist.new_group(backend="gloo", timeout=within) for within in (_STEP_TIMEOUT, _PREPARE_TIMEOUT)}
        )
    if not on_gpu:
        torch.set_num_threads(max(1, usable_cores() // local_size))
    return Distributed(rank, size, local_size, device)
