"""Functions timed in turns: order, warm-up, ratios and their intervals; the clock is made up, so that all is exact."""

import gc
from collections import Counter

import pytest
import torch

from vertebra.errors import UsageError
from vertebra.introspect import interleaved_timing
from vertebra.introspect.interleaved_timing import Timings, time_interleaved


@pytest.fixture(autouse=True)
def _nothing_to_collect(monkeypatch):
    """After all that the suite has imported, collecting garbage takes most of a second."""
    monkeypatch.setattr(interleaved_timing.gc, "collect", lambda: 0)


class Clock:
    """Time that passes only where a function says so."""

    def __init__(self, monkeypatch):
        self.now, self.calls, self.events = 0.0, [], []
        monkeypatch.setattr(interleaved_timing.time, "perf_counter", lambda: self.now)

    def arm(self, name, *durations):
        taken = iter(durations * 100)

        def call():
            self.calls.append(name)
            self.now += next(taken)
            return gc.isenabled()

        return call


def test_arms_take_turns_in_a_random_order(monkeypatch):
    clock = Clock(monkeypatch)
    arms = {name: clock.arm(name, 1.0) for name in "abc"}
    timings = time_interleaved(arms, rounds=12, warmup=3)
    warm, timed = clock.calls[:9], clock.calls[9:]
    assert Counter(warm) == dict.fromkeys("abc", 3)
    orders = ["".join(timed[i : i + 3]) for i in range(0, 36, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 2
    assert timings.rounds == 12
    assert timings.median_ms("a") == timings.best_ms("b") == 1000
    clock.calls.clear()
    time_interleaved(arms, rounds=12, warmup=0, seed=1)
    assert ["".join(clock.calls[i : i + 3]) for i in range(0, 36, 3)] != orders


def test_ratios_are_of_the_same_round():
    # The machine is slower from round to round; the ratio is 2 in all of them.
    slower = tuple(float(2**i) for i in range(6))
    timings = Timings({"a": tuple(2 * s for s in slower), "b": slower}, "cpu", 1)
    ratio = timings.ratio("a", "b")
    assert (ratio.median, ratio.low, ratio.high, ratio.n) == (2, 2, 2, 6)
    assert ratio.excludes_one
    assert timings.ratio("b", "a").median == 0.5
    assert not timings.ratio("a", "a").excludes_one
    assert timings.best_ms("b") == 1000
    assert timings.to_dict()["arms"]["a"] == {"best_ms": 2000, "median_ms": 12000}


def test_an_interval_that_has_one_inside_decides_nothing():
    timings = Timings({"a": (1.0, 2, 3, 1, 2, 1, 4, 1), "b": (2.0, 1, 1, 2, 1, 2, 1, 2)}, "cpu", 1)
    ratio = timings.ratio("a", "b")
    assert (ratio.low, ratio.high) == (0.5, 4)
    assert not ratio.excludes_one


def test_seconds_go_on_until_the_time_is_over_but_for_six_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    assert time_interleaved({"a": clock.arm("a", 1.0)}, seconds=20, warmup=0).rounds == 20
    assert time_interleaved({"a": clock.arm("a", 100.0)}, seconds=1, warmup=0).rounds == 6


def test_the_garbage_collector_rests_and_goes_on_also_after_an_error():
    found = []
    time_interleaved({"a": lambda: found.append(gc.isenabled())}, rounds=6, warmup=0)
    assert found == [False] * 6
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"a": lambda: 1 / 0}, rounds=6)
    assert gc.isenabled()


def test_on_cuda_the_fastest_algorithms_are_used_and_not_afterwards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    for device, used in (("cuda:0", True), ("cpu", False)):
        found = []
        time_interleaved(
            {"a": lambda found=found: found.append(torch.backends.cudnn.benchmark)}, rounds=6, device=device
        )
        assert set(found) == {used} and not torch.backends.cudnn.benchmark
    with pytest.raises(ZeroDivisionError):
        time_interleaved({"a": lambda: 1 / 0}, rounds=6, device="cuda:0")
    assert not torch.backends.cudnn.benchmark


def test_on_cuda_each_call_waits(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))
    timings = time_interleaved({"a": lambda: events.append("run")}, rounds=6, warmup=0, device="cuda:0")
    assert events == ["cuda:0", "run", "cuda:0"] * 6
    assert timings.device == "cuda:0"


@pytest.mark.parametrize(
    ("arms", "options", "message"),
    [
        ({}, {"rounds": 6}, "arms is {}"),
        ({"a": 3}, {"rounds": 6}, "arms is"),
        ({"a": int}, {}, "rounds is None and seconds None"),
        ({"a": int}, {"rounds": 6, "seconds": 1}, "give one of them"),
        ({"a": int}, {"rounds": 5}, "at least 6"),
        ({"a": int}, {"seconds": 0}, "seconds is 0"),
        ({"a": int}, {"seconds": float("nan")}, "seconds is nan"),
    ],
)
def test_wrong_arguments(arms, options, message):
    with pytest.raises(UsageError, match=message):
        time_interleaved(arms, **options)


def test_an_arm_that_was_not_timed():
    timings = Timings({"fused": (1.0,) * 6, "plain": (1.0,) * 6}, "cpu", 1)
    with pytest.raises(UsageError, match=r"no arm 'fusd' was timed, but fused, plain. Did you mean 'fused'"):
        timings.ratio("fusd", "plain")
