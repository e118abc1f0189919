"""Train several networks with several seeds, side by side in processes where that is faster: `fit_all`."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext
from typing import Any

import torch

from vertebra.errors import UsageError, VertebraError
from vertebra.machine import usable_cores
from vertebra.models import ConvNet
from vertebra.progress import Progress, silent
from vertebra.train.batch_loader import can_import_main, start_method, steps_of_epoch

from .fit import Curve, Protocol, fit, reproducible
from .small_data import Images
from .small_networks import seeded

Arm = Callable[..., ConvNet]  # arm(num_classes=10)
Measure = Callable[[ConvNet, Images], Any]

_POLL_SECONDS = 0.2


def fit_all(
    arms: Mapping[str, Arm],
    seeds: Sequence[int],
    images: Callable[[int], Images],
    protocol: Protocol,
    *,
    measure: Measure | None = None,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, list[Curve]]:
    """Train each arm once with each seed; the curves of an arm are in the order of the seeds.

    The seed decides the split, the random weights and the batches, so arms with the same tensors begin with the same
    weights. Results do not depend on the number of processes.

    Args:
        arms: by name, what builds each network, called with `num_classes`.
        seeds: one training of each arm for each.
        images: the images of a seed, such as `digits().split`.
        protocol: the same budget for all.
        measure: called with each trained network, in evaluation mode, and its images; its result, which must be
            picklable, is the curve's `found`.
        device: "cpu" or "cuda".
        workers: processes; None: the usable cores, and one with a GPU.
        progress: called with (task, steps done, steps of all).

    Raises:
        UsageError: there are no seeds, or the images do not fit a network.
        VertebraError: a process was killed.
    """
    if not arms or not seeds:
        raise UsageError("there is nothing to train: give at least one arm and one seed.")
    work = _Work(dict(arms), images, protocol, measure, device)
    runs = [(arm, seed) for seed in seeds for arm in arms]
    steps = protocol.epochs * steps_of_epoch(len(images(seeds[0]).train_labels), protocol.settings(0)) * len(runs)
    workers = min(len(runs), usable_cores() if workers is None and device == "cpu" else workers or 1)
    context = _pool_context(work) if workers > 1 and device == "cpu" else None
    if context is None:
        found = _in_this_process(work, runs, steps, progress)
    else:
        found = _in_processes(work, runs, steps, progress, context, workers)
    return {arm: [found[arm, seed] for seed in seeds] for arm in arms}


Run = tuple[str, int]  # arm, seed


@dataclass(frozen=True)
class _Work:
    """What all runs of a call share."""

    arms: Mapping[str, Arm]
    images: Callable[[int], Images]
    protocol: Protocol
    measure: Measure | None
    device: str

    def train(self, arm: str, seed: int, progress: Progress) -> Curve:
        with reproducible():
            images = self.images(seed)
            network = seeded(partial(self.arms[arm], num_classes=len(images.classes)), seed)
            curve = fit(network, images, self.protocol, seed, self.device, progress)
            return curve if self.measure is None else replace(curve, found=self.measure(network, images))


def _in_this_process(work: _Work, runs: Sequence[Run], steps: int, progress: Progress) -> dict[Run, Curve]:
    found: dict[Run, Curve] = {}
    for number, (arm, seed) in enumerate(runs):

        def advance(task: str, done: int = 0, total: int | None = None, /, *, number: int = number) -> None:
            progress(_task(number, runs), steps // len(runs) * number + done, steps)

        found[arm, seed] = work.train(arm, seed, advance)
    return found


def _task(number: int, runs: Sequence[Run]) -> str:
    return f"training: {number} of {len(runs)} networks done"


def _pool_context(work: _Work) -> BaseContext | None:
    """How to start processes here; None: not at all.

    With a GPU, autograd has threads that a forked process lacks, even for work on the CPU.
    """
    method = "spawn" if torch.cuda.is_available() else start_method()
    if method == "spawn":
        if not can_import_main():
            return None
        try:
            pickle.dumps(work)
        except (pickle.PicklingError, AttributeError, TypeError):  # a function inside another
            return None
    return multiprocessing.get_context(method)


def _in_processes(
    work: _Work, runs: Sequence[Run], steps: int, progress: Progress, context: Any, workers: int
) -> dict[Run, Curve]:
    done_steps, stopped = context.Value("q", 0), context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (work, done_steps, stopped))
    try:
        pending: dict[Future[Curve], Run] = {pool.submit(_train_in_worker, *run): run for run in runs}
        found: dict[Run, Curve] = {}
        while pending:
            progress(_task(len(found), runs), done_steps.value, steps)
            for future in wait(pending, _POLL_SECONDS, FIRST_COMPLETED).done:
                found[pending.pop(future)] = future.result()
        progress(_task(len(found), runs), steps, steps)
        return found
    except BrokenProcessPool as error:
        raise VertebraError(
            "a training process was ended from outside, most often for lack of memory. Train in one process: "
            "VERTEBRA_THREADS=1"
        ) from error
    finally:
        stopped.set()  # on an error or Ctrl-C the other trainings end with their step
        pool.shutdown(wait=True, cancel_futures=True)


class _StoppedError(Exception):
    """The main process gave up."""


_worker: tuple[_Work, Any, Any]  # of this process


def _start_worker(work: _Work, done_steps: Any, stopped: Any) -> None:
    global _worker
    _worker = work, done_steps, stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A main process that was killed tells its workers nothing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _train_in_worker(arm: str, seed: int) -> Curve:
    work, done_steps, stopped = _worker

    def advance(task: str, done: int = 0, total: int | None = None, /) -> None:
        if stopped.is_set():
            raise _StoppedError
        with done_steps.get_lock():
            done_steps.value += 1

    return work.train(arm, seed, advance)
