"""Selection of the engine that runs a file, by batch size and number of photos, and the cache of open engines."""

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
MAX_OPEN = 4
MAX_PLANS = 16  # by batch size, number of photos, and what else they depend on

_SELECTORS: weakref.WeakSet[EngineSelector] = weakref.WeakSet()
_INHERITED: list[object] = []  # from the process that this one was forked from


class EngineSelector:
    """Select, open and cache the engines of one file. Thread-safe.

    Measuring and loading take seconds. Callers that need the engine being measured or loaded wait for it; others use a
    provisional plan until the measurement is done.

    Args:
        path, card: the file and its card; `state`: the file's size and times when the card was read.
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
        _SELECTORS.add(self)

    def reset(self) -> None:
        """Forget all plans and engines, and make new locks."""
        self._lock = threading.Lock()  # guards the two tables, and is never held for long
        self._measuring = threading.Lock()
        self._measured = 0  # times that something was measured
        self._plans: OrderedDict[tuple[int, int | None, bool, bool], Plan] = OrderedDict()
        self._open: OrderedDict[Plan, Future[Runner]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def reset_after_fork(self) -> None:
        """Reset in a forked process, which has none of the threads that engines use or that hold locks."""
        # Kept alive: freeing an engine would wait for its threads.
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
        """Return the engine for batches of `batch` images and `count` photos in total (None: unknown or endless).

        `may_measure`: measure which plan is fastest if that is unknown and `count` is large enough. `wait`: if another
        thread is measuring, wait for its result instead of using a provisional plan. `decoding`: the same cores also
        decode photos.

        Raises:
            EngineError: the file has been replaced, or cannot be run.
        """
        return self._open_once(self._select_plan(batch, count, may_measure, wait, decoding))

    def _select_plan(self, batch: int, count: int | None, may_measure: bool, wait: bool, decoding: bool) -> Plan:
        if self.fast_start and self.engine in ("auto", "onnxruntime"):
            return Plan(threads=self.threads, fast_start=True)
        from . import autotune  # imported late: a fast start needs neither it nor the other engines

        may_measure = may_measure and (count is None or count >= autotune.MIN_IMAGES_TO_MEASURE)
        key = (batch, count, may_measure, decoding)
        if (plan := self._cached_plan(key)) is not None:
            return plan
        if may_measure and not self._measuring.acquire(blocking=wait):
            return self._select_plan(batch, count, False, wait, decoding)
        try:
            if may_measure and (plan := self._cached_plan(key)) is not None:
                return plan  # measured while this thread waited
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
                    # Calls that may not measure use the result, too.
                    self._measured += 1
                    for old in [old for old in self._plans if (old[0], old[3]) == (batch, decoding) and not old[2]]:
                        del self._plans[old]
                    self._plans[batch, None, False, decoding] = plan
                if may_measure or measured == self._measured:  # else it is provisional
                    self._plans[key] = plan
                while len(self._plans) > MAX_PLANS:
                    self._plans.popitem(last=False)
            return plan
        finally:
            if may_measure:
                self._measuring.release()

    def _cached_plan(self, key: tuple[int, int | None, bool, bool]) -> Plan | None:
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
            return self._plans.get(key)

    def _open_once(self, plan: Plan) -> Runner:
        """Return the engine of a plan, opened by one thread only.

        The least recently used engine is evicted, and freed when its running calls end.
        """
        with self._lock:
            future = self._open.get(plan)
            first = future is None
            if future is None:
                future = self._open[plan] = Future()
            self._open.move_to_end(plan)
            while len(self._open) > MAX_OPEN:
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
        self._require_unchanged()
        try:
            engine = open_engine(self.path, self.card, plan)
        except EngineError as error:
            if self.engine != "auto" or plan.engine == "onnxruntime":
                raise
            # It was the fastest when it was measured, and has stopped working since: fall back.
            plan = replace(plan, engine="onnxruntime")
            warn_once(f"{error} Taken instead: onnxruntime.")
            engine = open_engine(self.path, self.card, plan)
        runner = Runner(engine, plan)
        self._require_unchanged()  # it may have been replaced while it was loaded
        return runner

    def _require_unchanged(self) -> None:
        """Raise an `EngineError` if the file has changed since its card was read."""
        if not self.path.is_file():
            raise EngineError(f"{self.path} is not there any more, or not on this machine. Put it back.")
        if file_state(self.path) != self.state:
            raise EngineError(f"{self.path} has been replaced since it was loaded. Load it again.")


def _reset_after_fork() -> None:
    for runners in list(_SELECTORS):
        runners.reset_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
