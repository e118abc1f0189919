"""Which engines are open for a file, and who waits for them: with engines and measurements that a test holds up."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from waiting import until

import vertebra.runtime.engine_selection as module
from vertebra.cache import file_state
from vertebra.errors import UsageError, VertebraWarning
from vertebra.runtime import autotune
from vertebra.runtime.engine import EngineError, Plan
from vertebra.runtime.engine_selection import MAX_OPEN, MAX_PLANS, EngineSelector

SIMPLE, FAST = Plan(lanes=2), Plan("mnn", lanes=2)
PIXELS = np.zeros((4, 2, 2, 3), np.uint8)


class Engine:
    name, lanes = "fake", 2

    def run(self, batch, outputs=("probabilities",), lane=0):
        return [np.zeros((len(batch), 3), np.float32)]


class World:
    """Stands in for `fastest_plan` and `open_engine`."""

    def __init__(self):
        self.chosen = []  # (batch, images, may_measure, decoding)
        self.opened = []  # (plan, weak reference)
        self.known = set()  # (batch, decoding) that have been measured
        self.hold = {}  # whether it measures, or a plan -> event that it waits for
        self.entered = {}  # the same -> event that is set then
        self.plan = lambda images: FAST
        self.options = []

    def _enter(self, what):
        if what in self.hold:
            self.entered[what].set()
            assert self.hold[what].wait(10)

    def held(self, what):
        self.hold[what], self.entered[what] = threading.Event(), threading.Event()
        return self.hold[what], self.entered[what]

    def fastest_plan(self, path, *, batch, cores, images, may_measure, engine, decoding, progress):
        self.chosen.append((batch, images, may_measure, decoding))
        self.options.append((path, cores, engine, progress))
        known = (batch, decoding) in self.known
        self._enter(may_measure)
        if may_measure:
            self.known.add((batch, decoding))
        return self.plan(images) if known or may_measure else SIMPLE

    def open_engine(self, path, card, plan):
        self._enter(plan)
        engine = Engine()
        self.opened.append((plan, weakref.ref(engine)))
        return engine

    @property
    def alive(self):
        return [plan for plan, engine in self.opened if engine() is not None]


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(autotune, "fastest_plan", world.fastest_plan)
    monkeypatch.setattr(module, "open_engine", world.open_engine)
    return world


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"model")
    return path


def progress(what):
    pass


@pytest.fixture
def runners(world, path):
    return EngineSelector(path, None, file_state(path), engine="auto", threads=3, fast_start=False, progress=progress)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def without_collector():
    """What is freed in the test is freed by its last reference: a reference cycle would stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["auto", "mnn"])
def test_an_engine_that_was_fastest_and_cannot_be_opened_any_more(world, path, monkeypatch, engine):
    fast = Plan("mnn", lanes=1, threads=3)
    world.plan = lambda images: fast
    opened = world.open_engine

    def open_engine(path, card, plan):
        if plan.engine == "mnn":
            raise EngineError("MNN's form is gone.")
        return opened(path, card, plan)

    monkeypatch.setattr(module, "open_engine", open_engine)
    monkeypatch.setattr("vertebra.cache._warned", set())
    runners = EngineSelector(
        path, None, file_state(path), engine=engine, threads=3, fast_start=False, progress=progress
    )
    if engine == "mnn":  # which was asked for
        with pytest.raises(EngineError, match="is gone"):
            runners.get(16, may_measure=True)
        return
    with pytest.warns(VertebraWarning, match=r"MNN's form is gone\. Taken instead: onnxruntime"):
        assert runners.get(16, may_measure=True).plan == Plan(lanes=1, threads=3)


def test_an_engine_is_chosen_and_opened_once(runners, world, path):
    first = runners.get(16)
    assert first is runners.get(16) and first.plan == SIMPLE
    assert world.chosen == [(16, None, False, False)] and [plan for plan, _ in world.opened] == [SIMPLE]
    assert world.options == [(path, 3, "auto", progress)]
    assert len(runners) == 1


def test_what_is_asked_decides(runners, world):
    runners.get(1)
    runners.get(16, decoding=True)
    runners.get(16, 499, may_measure=True)  # too few to measure for
    runners.get(16, 500, may_measure=True)
    runners.get(16, may_measure=True)
    assert world.chosen == [
        (1, None, False, False),
        (16, None, False, True),
        (16, 499, False, False),
        (16, 500, True, False),
        (16, None, True, False),
    ]


def test_what_was_measured_holds_for_those_who_would_not_have_measured(runners, world):
    assert runners.get(16).plan == SIMPLE
    assert runners.get(16, 300, may_measure=True).plan == SIMPLE
    assert runners.get(1).plan == SIMPLE
    assert runners.get(16, may_measure=True).plan == FAST
    assert runners.get(16).plan == FAST
    assert runners.get(16, 300, may_measure=True).plan == FAST
    assert runners.get(16, decoding=True).plan == SIMPLE and runners.get(1).plan == SIMPLE  # of other kinds
    assert [choice for choice in world.chosen if choice[2]] == [(16, None, True, False)]


def test_others_go_on_while_one_measures(runners, world, pool):
    finish, begun = world.held(True)
    measuring = pool.submit(runners.get, 16, 1000, may_measure=True)
    assert begun.wait(10)
    # The same kind, another one, and one who would have measured himself.
    assert runners.get(16).plan == SIMPLE
    assert runners.get(1).plan == SIMPLE
    assert runners.get(16, 2000, may_measure=True).plan == SIMPLE
    assert runners.get(16, may_measure=True).plan == SIMPLE
    assert not measuring.done()
    finish.set()
    assert measuring.result(10).plan == FAST
    del world.hold[True]
    # What was provisional has gone.
    assert runners.get(16).plan == FAST
    assert runners.get(16, 2000, may_measure=True).plan == FAST
    assert runners.get(16, may_measure=True).plan == FAST


def test_who_wants_the_fastest_waits_and_does_not_measure_again(runners, world, pool):
    finish, begun = world.held(True)
    measuring = pool.submit(runners.get, 16, may_measure=True)
    assert begun.wait(10)
    tuning = [pool.submit(runners.get, 16, may_measure=True, wait=True) for _ in range(2)]
    time.sleep(0.01)
    assert not any(future.done() for future in tuning)
    finish.set()
    assert {future.result(10).plan for future in (measuring, *tuning)} == {FAST}
    assert len([choice for choice in world.chosen if choice[2]]) == 1


def test_a_plan_from_before_a_measurement_is_not_kept_after_it(runners, world, pool):
    finish, begun = world.held(False)
    slow = pool.submit(runners.get, 16)
    assert begun.wait(10)
    assert runners.get(16, may_measure=True).plan == FAST
    finish.set()
    assert slow.result(10).plan == SIMPLE
    assert runners.get(16).plan == FAST


def test_a_measurement_that_fails_lets_the_next_one_try(runners, world, monkeypatch):
    def fail(*arguments, **options):
        raise EngineError("no engine runs it")

    with monkeypatch.context() as patch:
        patch.setattr(autotune, "fastest_plan", fail)
        for _ in range(2):
            with pytest.raises(EngineError, match="no engine runs it"):
                runners.get(16, may_measure=True, wait=True)
    assert runners.get(16, may_measure=True, wait=True).plan == FAST


def test_plans_are_kept_for_the_counts_of_late(runners, world):
    for count in range(500, 500 + 3 * MAX_PLANS):
        runners.get(16, count, may_measure=True)
    assert len(runners._plans) == MAX_PLANS
    chosen = len(world.chosen)
    oldest = 500 + 2 * MAX_PLANS + 1  # and the one that holds without a count
    runners.get(16, oldest, may_measure=True)
    assert len(world.chosen) == chosen
    runners.get(16, 499, may_measure=True)  # one more, for which the one goes that was asked for longest ago
    runners.get(16, oldest, may_measure=True)
    assert len(world.chosen) == chosen + 1 and len(runners._plans) == MAX_PLANS


def test_brief_ones_are_not_measured(world, path):
    options = {"threads": 3, "progress": progress, "fast_start": True}
    plan = Plan(threads=3, fast_start=True)
    assert (
        EngineSelector(path, None, file_state(path), engine="auto", **options).get(16, 1000, may_measure=True).plan
        == plan
    )
    assert world.chosen == []
    assert EngineSelector(path, None, file_state(path), engine="mnn", **options).get(16).plan == SIMPLE


# --- engines ----------------------------------------------------------------------------------------------------------


def by_count(images):
    return Plan(lanes=2, micro_batch=images or 1)


def test_few_engines_are_open_and_the_others_are_freed(runners, world, without_collector):
    world.plan = by_count
    for count in range(500, 550):
        runners.get(16, count, may_measure=True).run(PIXELS)
        assert len(world.alive) <= MAX_OPEN
    assert len(runners) == MAX_OPEN and world.alive == [by_count(count) for count in range(550 - MAX_OPEN, 550)]
    # The one that was asked for of late stays.
    runners.get(16, 550 - MAX_OPEN, may_measure=True)
    runners.get(16, 600, may_measure=True)
    assert by_count(550 - MAX_OPEN) in world.alive and by_count(551 - MAX_OPEN) not in world.alive


def test_an_engine_in_use_is_freed_only_then(runners, world, without_collector):
    world.plan = by_count
    used = runners.get(16, 500, may_measure=True)
    before = threading.active_count()
    used.run(PIXELS)
    assert threading.active_count() > before
    for count in range(600, 600 + MAX_OPEN):
        runners.get(16, count, may_measure=True)
    assert by_count(500) in world.alive
    assert used.run(PIXELS)[0].shape == (4, 3)
    del used
    until(lambda: threading.active_count() == before)  # the threads of its lanes
    assert by_count(500) not in world.alive


def test_all_are_freed_with_what_holds_them(world, path, without_collector):
    runners = EngineSelector(
        path, None, file_state(path), engine="auto", threads=3, fast_start=False, progress=progress
    )
    runners.get(16).run(PIXELS)
    del runners
    assert world.alive == []


def test_of_several_threads_one_opens(runners, world, pool):
    finish, begun = world.held(SIMPLE)
    found = [pool.submit(runners.get, 16) for _ in range(4)]
    assert begun.wait(10)
    # Another engine is opened meanwhile.
    assert runners.get(1, may_measure=True).plan == FAST
    assert not any(future.done() for future in found)
    finish.set()
    assert len({id(future.result(10)) for future in found}) == 1
    assert [plan for plan, _ in world.opened] == [FAST, SIMPLE]


def test_one_that_cannot_be_opened_fails_for_all_who_wait_and_is_tried_again(
    runners, world, pool, monkeypatch, without_collector
):
    begun, finish, errors = threading.Event(), threading.Event(), []

    class WatchedError(EngineError):
        def __init__(self, text):
            super().__init__(text)
            errors.append(weakref.ref(self))

    def fail(path, card, plan):
        begun.set()
        assert finish.wait(10)
        raise WatchedError("it cannot be loaded")

    def ask():
        try:
            runners.get(16)
        except WatchedError as error:
            return str(error)

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_engine", fail)
        found = [pool.submit(ask) for _ in range(3)]
        assert begun.wait(10)
        until(lambda: len(world.chosen) >= 1)
        finish.set()
        assert {future.result(10) for future in found} == {"it cannot be loaded"}
    assert len(runners) == 0
    until(lambda: not any(error() for error in errors))  # nor does it keep anything
    assert runners.get(16).plan == SIMPLE


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"another"), r"m\.onnx has been replaced since it was loaded"),
        (lambda path: path.unlink(), r"m\.onnx is not there any more"),
    ],
)
def test_a_file_that_is_another_is_not_opened(runners, world, path, change, message):
    change(path)
    with pytest.raises(EngineError, match=message):
        runners.get(16)
    assert world.opened == [] and len(runners) == 0


def test_a_file_that_is_replaced_while_it_is_opened(runners, world, path, monkeypatch):
    """Its engine would run with the card of the one before."""

    def replaced(*arguments):
        path.write_bytes(b"another")
        return world.open_engine(*arguments)

    monkeypatch.setattr(module, "open_engine", replaced)
    with pytest.raises(EngineError, match="has been replaced"):
        runners.get(16)
    assert world.alive == [] and len(runners) == 0


def test_a_forked_process_opens_its_own(runners, world):
    """Whatever a lock was held for when it was forked."""
    runner = runners.get(16)
    with runners._lock, runners._measuring:
        runners.reset_after_fork()
        assert runners.get(16, may_measure=True, wait=True) is not runner
    assert world.alive == [SIMPLE, FAST]  # the inherited one must not be freed: that would wait for its threads


def test_all_are_told_of_a_fork(runners, world):
    runner = runners.get(16)
    module._reset_after_fork()
    assert len(runners) == 0 and runners.get(16) is not runner


def test_errors_of_the_call_are_no_files(runners, monkeypatch):
    def fail(*arguments, **options):
        raise UsageError("there is no engine")

    monkeypatch.setattr(autotune, "fastest_plan", fail)
    with pytest.raises(UsageError):
        runners.get(16)
