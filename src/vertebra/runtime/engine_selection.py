"""The engines that are open for one file: which to use for how many photos, opened on first use, a few at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from vertebra.cache import file_state, warn_once
from vertebra.card import Card
from vertebra.progress import Progress

from .engine import EngineError, Plan
from .engine_runner import Runner, open_engine

# An engine holds hundreds of megabytes. Four: for one photo and for many, each with and without decoding beside it.
OPEN = 4
PLANS = 16  # by batch size, number of photos, and what else they depend on

_ALL: weakref.WeakSet[EngineSelector] = weakref.WeakSet()
_INHERITED: list[object] = []  # from the process that this one was forked from


class EngineSelector:
    """The open engines of one file. Any number of threads may ask for one.

    Measuring and loading take seconds. Only callers that need what is being measured or loaded wait for it; others use
    a provisional plan until the measurement is there.

    Args:
        path, card: the file; `state`: what it was when the card was read.
        engine, threads, fast_start, progress: as `Predictor` takes them.
    """

    def __init__(
        self,
        path: Path,
        card: Card,
        state: dict[str, int],
        *,
        engine: str,
        threads: int,
        fast_start: bool,
        progress: Progress,
    ) -> None:
        self.path = path
        self.card = card
        self.state = state
        self.engine = engine
        self.threads = threads
        self.fast_start = fast_start
        self._progress = progress
        self.reset()
        _ALL.add(self)

    def reset(self) -> None:
        """Start empty, with locks that no thread holds."""
        self._lock = threading.Lock()  # guards the two tables, and is never held for long
        self._measuring = threading.Lock()
        self._measured = 0  # times that something was measured
        self._plans: OrderedDict[tuple[int, int | None, bool, bool], Plan] = OrderedDict()
        self._open: OrderedDict[Plan, Future[Runner]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def inherited(self) -> None:
        """In a forked process: an engine's threads are not in it, and a lock may be held by a thread that is not."""
        # Not freed: that would wait for the threads.
        _INHERITED.append(self._open)
        self.reset()

    def get(
        self,
        batch: int,
        count: int | None = None,
        *,
        may_measure: bool = False,
        wait: bool = False,
        decoding: bool = False,
    ) -> Runner:
        """The engine for batches of that size and `count` photos in all (None: unknown, or no end).

        `may_measure`: find the fastest first, where that is not known and `count` makes it worth it. `wait`: where
        another thread is measuring already, for its result; else a provisional plan is used. `decoding`: the same cores
        decode meanwhile.

        Raises:
            EngineError: the file has been replaced, or cannot be run.
        """
        return self._opened(self._plan(batch, count, may_measure, wait, decoding))

    def _plan(self, batch: int, count: int | None, may_measure: bool, wait: bool, decoding: bool) -> Plan:
        if self.fast_start and self.engine != "mnn":
            return Plan(threads=self.threads, fast_start=True)
        from . import autotune  # a few photos do without it and MNN

        may_measure = may_measure and (count is None or count >= autotune.MIN_IMAGES_TO_MEASURE)
        key = (batch, count, may_measure, decoding)
        if (plan := self._known(key)) is not None:
            return plan
        if may_measure and not self._measuring.acquire(blocking=wait):
            return self._plan(batch, count, False, wait, decoding)
        try:
            if may_measure and (plan := self._known(key)) is not None:
                return plan  # measured by the thread that was waited for
            measured = self._measured
            plan = autotune.fastest_plan(
                self.path,
                batch=batch,
                cores=self.threads,
                images=count,
                may_measure=may_measure,
                engine=self.engine,
                decoding=decoding,
                progress=self._progress,
            )
            with self._lock:
                if may_measure:
                    # What is known now holds for calls that would not have measured, too.
                    self._measured += 1
                    for old in [old for old in self._plans if (old[0], old[3]) == (batch, decoding) and not old[2]]:
                        del self._plans[old]
                    self._plans[batch, None, False, decoding] = plan
                if may_measure or measured == self._measured:  # else it is provisional
                    self._plans[key] = plan
                while len(self._plans) > PLANS:
                    self._plans.popitem(last=False)
            return plan
        finally:
            if may_measure:
                self._measuring.release()

    def _known(self, key: tuple[int, int | None, bool, bool]) -> Plan | None:
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
            return self._plans.get(key)

    def _opened(self, plan: Plan) -> Runner:
        """The engine of a plan; of several threads that ask for it, one opens it.

        The one that has not been asked for for longest goes, and is freed once the calls that use it are done.
        """
        with self._lock:
            future = self._open.get(plan)
            first = future is None
            if future is None:
                future = self._open[plan] = Future()
            self._open.move_to_end(plan)
            while len(self._open) > OPEN:
                self._open.popitem(last=False)
        try:
            if first:
                future.set_result(self._load(plan))
            return future.result()
        except BaseException as error:
            if first:
                with self._lock:
                    if self._open.get(plan) is future:
                        del self._open[plan]
                future.set_exception(error)
            raise
        finally:
            del future  # an error's traceback has this frame, and the future has the error

    def _load(self, plan: Plan) -> Runner:
        self._check()
        try:
            engine = open_engine(self.path, self.card, plan)
        except EngineError as error:
            if self.engine != "auto" or plan.engine == "onnxruntime":
                raise
            # It was the fastest when that was measured and kept, which is no reason to fail now.
            plan = replace(plan, engine="onnxruntime")
            warn_once(f"{error} Taken instead: onnxruntime.")
            engine = open_engine(self.path, self.card, plan)
        runner = Runner(engine, plan)
        self._check()  # or it might have been replaced between
        return runner

    def _check(self) -> None:
        """Whether the file is the one that the card was read from."""
        if not self.path.is_file():
            raise EngineError(f"{self.path} is not there any more, or not on this machine. Put it back.")
        if file_state(self.path) != self.state:
            raise EngineError(f"{self.path} has been replaced since it was loaded. Load it again.")


def _forked() -> None:
    for runners in list(_ALL):
        runners.inherited()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
