"""Times functions against one another in turns, so that a slow moment of the machine affects all alike.

`bench/` compares programs and backends, each in a process of its own; this compares functions in this process, round by
round, and gives the interval of their ratio.
"""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vertebra import intervals
from vertebra.errors import UsageError, require_positive_int, suggest

MIN_ROUNDS = 6  # the fewest of which the median has an interval at 95 %


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of two arms in the same round, and its 95 % interval."""

    median: float
    low: float
    high: float
    n: int

    @property
    def excludes_one(self) -> bool:
        """Whether the interval says which of the two is faster."""
        return not self.low <= 1 <= self.high


@dataclass(frozen=True)
class Timings:
    """Seconds of each arm, by round."""

    seconds: Mapping[str, tuple[float, ...]]
    device: str  # "cpu", "cuda:0"
    threads: int

    @property
    def rounds(self) -> int:
        """How often each arm was timed."""
        return len(next(iter(self.seconds.values())))

    def best_ms(self, arm: str) -> float:
        """The shortest time of an arm."""
        return 1e3 * min(self._of(arm))

    def median_ms(self, arm: str) -> float:
        """The median time of an arm."""
        return 1e3 * statistics.median(self._of(arm))

    def ratio(self, arm: str, reference: str) -> Ratio:
        """Time of `arm` over that of `reference`: above 1 where `arm` is slower.

        The ratios of all rounds are one sample, of whose median the interval is (`intervals.median`).
        """
        ratios = [a / b for a, b in zip(self._of(arm), self._of(reference), strict=True)]
        low, high = intervals.median(ratios)
        return Ratio(statistics.median(ratios), low, high, len(ratios))

    def to_dict(self) -> dict[str, Any]:
        """The best and median time of each arm in ms, for JSON."""
        arms = {arm: {"best_ms": self.best_ms(arm), "median_ms": self.median_ms(arm)} for arm in self.seconds}
        return asdict(self) | {"rounds": self.rounds, "arms": arms}

    def _of(self, arm: str) -> tuple[float, ...]:
        if arm not in self.seconds:
            raise UsageError(
                f"no arm {arm!r} was timed, but {', '.join(self.seconds)}. {suggest(arm, self.seconds)}".rstrip()
            )
        return self.seconds[arm]


def time_interleaved(
    arms: Mapping[str, Callable[[], object]],
    *,
    rounds: int | None = None,
    seconds: float | None = None,
    warmup: int = 2,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Timings:
    """Time functions in rounds: each once a round, in a random order that is new in every round.

    Python's garbage collector rests meanwhile, and what a function returns is freed outside the measured time.

    Args:
        arms: functions without arguments, by name.
        rounds: how many; at least 6, without which a ratio has no interval.
        seconds: instead of `rounds`, how long to go on, with at least 6 rounds.
        warmup: rounds before, which do not count.
        device: where the functions compute; on CUDA each waits until it has finished, with `fastest_convolutions`.
        seed: of the order.

    Raises:
        UsageError: an arm is no function, there is none, or not one of `rounds` and `seconds` is given, or it is too
            small.
    """
    if not arms or not all(map(callable, arms.values())):
        raise UsageError(f"arms is {arms!r}; give functions without arguments, by name.")
    if (rounds is None) == (seconds is None):
        raise UsageError(f"rounds is {rounds} and seconds {seconds}; give one of them.")
    if rounds is not None and require_positive_int("rounds", rounds) < MIN_ROUNDS:
        raise UsageError(f"rounds is {rounds}; it must be at least {MIN_ROUNDS}, so that a ratio has an interval.")
    if seconds is not None and not seconds > 0:
        raise UsageError(f"seconds is {seconds}; it must be above 0.")
    where = torch.device(device)
    shuffled = random.Random(seed)
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    was_collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with fastest_convolutions(where):
            for _ in range(warmup):
                for arm in arms.values():
                    _time(arm, where)
            end = None if seconds is None else time.perf_counter() + seconds
            for done in itertools.count():
                if done == rounds or (end is not None and done >= MIN_ROUNDS and time.perf_counter() >= end):
                    break
                for name in shuffled.sample(list(arms), len(arms)):
                    times[name].append(_time(arms[name], where))
    finally:
        if was_collecting:
            gc.enable()
    return Timings({arm: tuple(found) for arm, found in times.items()}, str(where), torch.get_num_threads())


@contextmanager
def fastest_convolutions(device: torch.device) -> Iterator[None]:
    """On CUDA cuDNN tries its algorithms at the first call with a shape, and stays with the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _time(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    taken = time.perf_counter() - start
    del result
    return taken
