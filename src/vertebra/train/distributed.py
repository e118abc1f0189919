"""Distributed training with torch's DDP, started by torchrun; without torchrun, a single process."""

from __future__ import annotations

import re
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from vertebra.errors import UsageError, first_line
from vertebra.machine import usable_cores
from vertebra.signals import TERMINATION_SIGNALS, signal_handler

from .launch import Launch, LostProcessError
from .process_join import JOIN_TIMEOUT, Peer, check_peers, join
from .run_folder import TrainError

# A dead process is noticed at once; the timeouts are for one that hangs or is cut off.
_STEP_TIMEOUT = timedelta(minutes=30)
# Rank 0 prepares the photos and exports the network while the others wait.
_PREPARE_TIMEOUT = timedelta(hours=12)

# gloo groups, so that reducing flags does not synchronise the GPU; created by the first `init_distributed`.
_groups: dict[timedelta, Any] = {}
_peers: list[Peer] = []


@dataclass(frozen=True)
class Distributed:
    """One process among those that train together."""

    rank: int
    size: int
    local_size: int  # processes on this machine
    device: torch.device
    peers: tuple[Peer, ...] = ()  # all processes by rank; empty: this is the only one

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place. Values on the CPU do not synchronise the GPU."""
        if self.size > 1:
            with _raising_lost_process():
                dist.all_reduce(values, group=None if values.is_cuda else _groups[_STEP_TIMEOUT])
        return values

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            with _raising_lost_process():  # not on the GPU, where a lost process would not be noticed
                dist.all_reduce(torch.zeros(()), group=_groups[_STEP_TIMEOUT])

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0; every process must call it."""
        found = [value]
        if self.size > 1:
            with _raising_lost_process():
                dist.broadcast_object_list(found, group=_groups[_PREPARE_TIMEOUT])
        return found[0]

    def first_value(self, value: Any, within: timedelta = _STEP_TIMEOUT) -> Any:
        """Return the value of the lowest rank whose value is not None, or None; every process must call it."""
        if self.size == 1:
            return value
        with _raising_lost_process():
            rank = torch.tensor(self.size if value is None else self.rank)
            dist.all_reduce(rank, dist.ReduceOp.MIN, group=_groups[within])
            found = [value]
            if rank < self.size:
                dist.broadcast_object_list(found, src=int(rank), group=_groups[within])
        return found[0]

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Raise an error of one process in all processes; every process must enter the context.

        A process without an error of its own raises a `TrainError` with the message of another's. All are marked by
        `raised_by_all`.
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
        """Mark an error that every process raises, so that only rank 0 prints it (`is_reported_by_first`)."""
        vars(error).update(is_reported_by_first=not self.is_first)
        return error

    def all_reduce_mean(self, tensors: Iterable[Tensor]) -> None:
        """Average over all processes, in place; integer tensors are skipped."""
        if self.size > 1:
            for tensor in tensors:
                if tensor.is_floating_point():
                    dist.all_reduce(tensor)
                    tensor.div_(self.size)

    def wrap_ddp(self, network: nn.Module) -> nn.Module:
        """Wrap the network in DDP, which averages gradients; running statistics stay local until `all_reduce_mean`."""
        if self.size == 1:
            return network
        devices = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # Newer versions of torch rename this argument.
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)


def no_sync(module: Any, *, last: bool) -> AbstractContextManager[None]:
    """Return DDP's `no_sync` for all micro-batches of a step but the last, so that gradients are synchronised once."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


@contextmanager
def _raising_lost_process() -> Iterator[None]:
    try:
        yield
    except LostProcessError:
        raise
    except RuntimeError as error:  # gloo raises plain RuntimeErrors
        raise lost_process(error) from error


def lost_process(error: RuntimeError) -> LostProcessError:
    """Return the error with torch's reason: its first sentence, without the place in the source of gloo."""
    reason = re.sub(r"^\[\S+:\d+\]\s*", "", first_line(error))
    return LostProcessError(reason.partition(". ")[0])


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether the error means that another process, or a DataLoader worker, has ended."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(
        sign in text for sign in ("DataLoader worker", "gloo", "Connection closed by peer", "Connection reset")
    )


def init_distributed(launch: Launch | None = None) -> Distributed:
    """Join the processes that torchrun started, if it did.

    Raises:
        UsageError: versions or kinds of device differ between the machines; raised in every process.
        LostProcessError: a process has not come, or has ended meanwhile.
    """
    launch = launch or Launch.from_environment()
    on_gpu = torch.cuda.is_available() and torch.cuda.device_count() >= launch.local_size
    device = torch.device("cuda", launch.local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if launch.size > 1 and not dist.is_initialized():
        _peers[:] = _join(launch, device)
    if not on_gpu:
        torch.set_num_threads(max(1, usable_cores() // launch.local_size))
    return Distributed(launch.rank, launch.size, launch.local_size, device, tuple(_peers))


def _join(launch: Launch, device: torch.device) -> list[Peer]:
    """Create the process groups."""
    with _raising_lost_process():
        meeting = dist.rendezvous("env://", launch.rank, launch.size, timeout=JOIN_TIMEOUT)  # type: ignore[attr-defined]
        with _ended_by_signals():
            store, _, _ = next(meeting)
        prefix, peers = join(store, Peer.of_this_process(launch, device.type), launch.size)
    try:
        check_peers(peers)
    except UsageError as error:
        vars(error).update(is_reported_by_first=launch.rank > 0)
        raise
    with _raising_lost_process(), _ended_by_signals():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(prefix, store),  # type: ignore[attr-defined]
            rank=launch.rank,
            world_size=launch.size,
            timeout=_STEP_TIMEOUT,
        )
        _groups.update(
            {within: dist.new_group(backend="gloo", timeout=within) for within in (_STEP_TIMEOUT, _PREPARE_TIMEOUT)}
        )
    return peers


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals end the process, which has begun nothing: torch waits for others without running Python's handlers.

    torchrun ends all processes by a signal if one has failed, and waits for 30 s for those that do not end.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with signal_handler(signal.SIG_DFL, (signal.SIGINT, *TERMINATION_SIGNALS)):
        yield
