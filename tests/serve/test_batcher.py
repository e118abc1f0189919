"""The queue and its threads: what waits together is taken together, nothing waits alone, nothing is lost.

No test measures time or waits for it to pass: the clock is the test's, and so is the moment at which a batch ends.
"""

import asyncio
import gc
import threading
import weakref
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from waiting import until

from vertebra.errors import ImageError
from vertebra.runtime.engine import EngineError
from vertebra.serve.batch_costs import BatchCosts
from vertebra.serve.batcher import Batcher, BatcherClosedError
from vertebra.serve.job import DecodedImage, Job
from vertebra.serve.queue_limit import QueueFullError

SECONDS = 10  # until a test that waits in vain fails
DECODING, INFERENCE = 0.25, 2.0  # seconds that the test's clock goes on for an image and for a batch


class Count(threading.Semaphore):
    """Who waits for it in vain fails."""

    def __init__(self):
        super().__init__(0)

    def acquire(self):
        assert super().acquire(timeout=SECONDS), f"it did not happen within {SECONDS} s"


class Network:
    """Remembers its batches; waits at a gate while it has one."""

    def __init__(self, clock):
        self.clock = clock
        self.batches = []
        self.outputs = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = Count()
        self.decoded = []

    def __call__(self, pixels, outputs):
        self.batches.append(len(pixels))
        self.outputs.append(outputs)
        self.entered.release()
        assert self.gate.wait(SECONDS)
        self.clock.time += INFERENCE
        return [pixels[:, 0, 0, :1].astype(np.float32) + 1000 * (name == "embedding") for name in outputs]

    def decode(self, data, name):
        self.clock.time += DECODING
        self.decoded.append(name)
        if data == b"bad":
            raise ImageError(f"{name} is bad")
        return DecodedImage(np.full((4, 4, 3), data[0], np.uint8), 40, 30, context=name)


class Hands:
    """A clock that stands still until it is moved. Who waits is woken by `notify` alone."""

    def __init__(self):
        self.time = 1000.0
        self.pauses = []
        self.paused = Count()

    def wait(self, condition, seconds):
        self.pauses.append(seconds)
        self.paused.release()
        assert condition.wait(SECONDS)

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Hands()


@pytest.fixture
def network(clock):
    return Network(clock)


@pytest.fixture
def make(network, clock):
    made = []

    def build(workers=2, limit=100, costs=None, **options):
        batcher = Batcher(
            network,
            num_workers=workers,
            max_images=limit,
            costs=costs,
            now=clock,
            timer=clock,
            wait=clock.wait,
            **options,
        )
        made.append(batcher)
        until(lambda: batcher.num_busy == 0)
        return batcher

    yield build
    network.gate.set()
    for batcher in made:
        batcher.close(wait=False)
        for thread in batcher._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()


def known(start=1, **seconds):
    """BatchCosts that know these sizes: known(b1=…, b2=…)."""
    costs = BatchCosts(start)
    usual = seconds.get(f"b{costs.initial_size}")
    for _ in range(20):
        for name, value in seconds.items():
            for _ in range(8 if usual else 0):
                costs.record_batch(costs.initial_size, usual, usual)
            costs.record_batch(int(name[1:]), value, value)
    return costs


def fixed(interval=1.0, **seconds):
    """BatchCosts that learn nothing more, neither of batches nor of arrivals."""
    costs = known(**seconds)
    costs.record_batch = lambda *arguments: None
    costs.arrived = lambda *arguments: None
    costs.arrival_interval = interval
    return costs


def accelerator(interval=0.001, seconds=2.0):
    """Where two images, or eight, take as long as one."""
    return fixed(interval, b1=seconds, b2=seconds, b4=seconds, b8=seconds)


@dataclass
class Waiting:
    """Jobs that are to be done within some time."""

    jobs: list
    seconds: float = 10_000.0

    def put(self, batcher):
        self.completion = batcher.submit(self.jobs, batcher._now() + self.seconds)
        return self

    @property
    def done(self):
        return asyncio.wait_for(asyncio.shield(self.completion.done), SECONDS)


@pytest.fixture
def job(network):
    """A job whose image has this value."""

    def make(value, name=None, *outputs, kind=Job):
        data = bytes([value]) if isinstance(value, int) else value
        name = name or f"n{value}"
        return kind(partial(network.decode, data, name), name, outputs or ("probabilities",))

    return make


@pytest.fixture
def put(job):
    return lambda batcher, *values, seconds=10_000.0: Waiting([job(value) for value in values], seconds).put(batcher)


def test_each_job_has_its_own_result(make, put):
    async def work():
        batcher = make()
        waiting = put(batcher, *range(30), b"bad")
        await waiting.done
        return waiting.jobs

    *images, bad = asyncio.run(work())
    assert [job.values["probabilities"][0] for job in images] == list(range(30))
    assert all((job.width, job.height) == (40, 30) and job.batch_size >= 1 for job in images)
    assert bad.error == "nb'bad' is bad" and bad.values == {}
    assert [job.context for job in images] == [f"n{value}" for value in range(30)] and bad.context is None


def test_a_job_that_nobody_has_taken_yet_has_taken_no_time():
    job = Job(lambda: None)
    assert (job.name, job.outputs, job.values) == ("image", ("probabilities",), {})
    assert [job.width, job.height, job.batch_size, job.queued_at] == [0, 0, 0, 0]
    assert [job.queue_seconds, job.decode_seconds, job.inference_seconds] == [0, 0, 0]


def test_each_job_has_the_outputs_that_it_asked_for_and_nothing_of_its_batch(make, network, put, job):
    async def work():
        batcher = make(workers=1, costs=fixed(start=4, b4=4.0))
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        both, one = job(2, "a", "probabilities", "embedding"), job(3, "b")
        waiting = Waiting([both, one]).put(batcher)
        network.gate.set()
        await asyncio.gather(running.done, waiting.done)
        return both, one

    both, one = asyncio.run(work())
    assert network.batches == [1, 2] and network.outputs == [["probabilities"], ["embedding", "probabilities"]]
    assert {name: value.tolist() for name, value in both.values.items()} == {"probabilities": [2], "embedding": [1002]}
    assert {name: value.tolist() for name, value in one.values.items()} == {"probabilities": [3]}
    # A view would keep the values of the whole batch.
    assert all(value.base is None for job in (both, one) for value in job.values.values())


def test_what_waits_is_taken_together_and_shared(make, network, put):
    async def work():
        batcher = make(workers=2, costs=fixed(start=4, b1=1.0, b2=1.9, b4=3.6, b8=7.2))
        network.gate.clear()
        first = [put(batcher, 1), put(batcher, 2)]
        network.entered.acquire()
        network.entered.acquire()  # both threads are busy now
        rest = put(batcher, *range(8))
        network.gate.set()
        await asyncio.gather(rest.done, *(each.done for each in first))

    asyncio.run(work())
    # Four are the size to start with, and no other costs clearly less an image.
    assert sorted(network.batches) == [1, 1, 4, 4]


def test_idle_threads_share_what_comes_at_once(make, network, put):
    async def work():
        batcher = make(workers=2, costs=fixed(start=4, b1=1.0, b2=1.9, b4=3.6, b8=7.2))
        network.gate.clear()
        waiting = put(batcher, 1, 2, 3, 4, 5)
        network.entered.acquire()
        network.entered.acquire()
        assert sorted(network.batches) == [2, 3]
        network.gate.set()
        await waiting.done

    asyncio.run(work())


def test_a_full_queue(make, network, put):
    async def work():
        batcher = make(workers=1, limit=3)
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        waiting = put(batcher, 1, 2, 3)
        assert len(batcher) == 3
        with pytest.raises(QueueFullError) as caught:
            put(batcher, 4)
        assert caught.value.seconds == pytest.approx(3 * batcher.costs.seconds_per_image)
        network.gate.set()
        await asyncio.gather(running.done, waiting.done)
        with pytest.raises(QueueFullError):
            put(batcher, 1, 2, 3, 4)  # more than ever find room

    asyncio.run(work())
    assert network.batches == [1, 1, 1, 1]


def test_what_would_be_late_is_refused(make, network, put):
    async def work():
        batcher = make(workers=2)
        batcher.costs.record_batch = lambda *arguments: None
        batcher.costs.seconds_per_image = 3.0
        network.gate.clear()
        # Whatever comes first is tried, late or not.
        running = []
        for _ in range(2):
            running.append(put(batcher, 1, seconds=0.1))
            network.entered.acquire()
        running.append(put(batcher, 1, 2, 3, 4))
        assert batcher.queue_load.wait_seconds == 6.0  # four of 3 s for two threads
        # Half as long again, and its own 3 s.
        with pytest.raises(QueueFullError) as caught:
            put(batcher, 5, seconds=11.9)
        assert caught.value.seconds == 6.0
        running.append(put(batcher, 5, seconds=12.0))
        network.gate.set()
        await asyncio.gather(*(each.done for each in running[:3]))

    asyncio.run(work())


def test_what_nobody_waits_for_is_not_done(make, network, clock, put):
    async def work():
        batcher = make(workers=1, costs=fixed(start=8, b8=8.0))
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        dropped, first, late, last = (put(batcher, n, seconds=s) for n, s in ((2, 99), (3, 99), (4, 5), (5, 99)))
        dropped.completion.is_cancelled = True
        clock.time += 5.0
        network.gate.set()
        await asyncio.gather(running.done, first.done, last.done)
        assert not dropped.completion.done.done() and not late.completion.done.done()

    asyncio.run(work())
    assert network.batches == [1, 2]
    assert network.decoded == ["n1", "n3", "n5"]


def test_a_failure_reaches_those_who_wait_and_the_thread_lives_on(make, network, monkeypatch, put):
    async def work():
        batcher = make(workers=1)
        monkeypatch.setattr(batcher, "_infer", lambda *arguments: 1 / 0)
        broken = put(batcher, 1)
        await broken.done
        assert isinstance(broken.jobs[0].failure, ZeroDivisionError)
        monkeypatch.undo()
        sound = put(batcher, 1)
        await sound.done
        assert sound.jobs[0].failure is None

    asyncio.run(work())


def test_jobs_are_freed_with_the_last_reference(make, monkeypatch, put, job):
    """Also those of a batch that failed, and the last ones of a thread that has nothing more to do."""

    class Watched(Job):
        __slots__ = ("__weakref__",)

    def fail(pixels, outputs):
        raise EngineError("it fails")  # others are logged, and pytest keeps what is logged

    async def one(batcher, value):
        watched = job(value, kind=Watched)
        await Waiting([watched]).put(batcher).done
        return weakref.ref(watched)

    async def work():
        batcher = make(workers=1)
        found = [await one(batcher, 1), await one(batcher, b"bad")]
        monkeypatch.setattr(batcher, "_infer", fail)
        found.append(await one(batcher, 1))
        until(lambda: batcher.num_busy == 0)
        return found

    gc.disable()
    try:
        assert [reference() for reference in asyncio.run(work())] == [None] * 3
    finally:
        gc.enable()


def test_closing_finishes_what_waits(make, network, put):
    async def work():
        batcher = make(workers=1)
        network.gate.clear()
        waiting = put(batcher, *range(10))
        network.entered.acquire()
        batcher.close(wait=False)
        with pytest.raises(BatcherClosedError):
            put(batcher, 1)
        assert batcher._threads[0].is_alive()
        network.gate.set()
        await waiting.done
        batcher._threads[0].join(SECONDS)
        assert not batcher._threads[0].is_alive()

    asyncio.run(work())
    assert network.batches == [1] * 10


def test_closing_ends_idle_threads(make):
    batcher = make(workers=3)
    closing = threading.Thread(target=batcher.close, daemon=True)
    closing.start()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert not any(thread.is_alive() for thread in batcher._threads)


def test_threads_that_cannot_be_started_leave_none_behind(make, monkeypatch):
    """Else those that could be started would keep the network for good."""
    started, start = [], threading.Thread.start

    def second_fails(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", second_fails)
    with pytest.raises(RuntimeError, match="can't start"):
        make(workers=2)
    started[0].join(SECONDS)
    assert not started[0].is_alive()


def test_waiting_for_one_more_where_it_pays(make, network, clock, put):
    """On an accelerator, where two images take as long as one, a busy batcher waits for the next one to come."""

    async def work():
        batcher = make(workers=2, costs=accelerator())
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        one = put(batcher, 2)
        clock.paused.acquire()
        assert len(batcher) == 1 and clock.pauses == [2.0]  # at most what the other image saves
        two = put(batcher, 3)
        network.gate.set()
        await asyncio.gather(running.done, one.done, two.done)
        assert [job.batch_size for each in (one, two) for job in each.jobs] == [2, 2]

    asyncio.run(work())
    assert network.batches == [1, 2]


def test_no_longer_than_it_pays(make, network, clock, put):
    """The image that waited is taken alone once the moment is over; what it has waited before counts."""

    async def work():
        batcher = make(workers=2, costs=accelerator())
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        one = put(batcher, 2)
        clock.paused.acquire()
        clock.time += 1.5
        with batcher._changed:
            batcher._changed.notify_all()  # woken too soon
        clock.paused.acquire()
        assert clock.pauses == [2.0, 0.5]
        clock.time += 0.5
        with batcher._changed:
            batcher._changed.notify_all()
        network.entered.acquire()
        network.gate.set()
        await asyncio.gather(running.done, one.done)

    asyncio.run(work())
    assert network.batches == [1, 1]


@pytest.mark.parametrize(
    ("workers", "costs"),
    [
        (1, accelerator()),  # one thread has nobody who works meanwhile
        (3, accelerator()),  # another one is idle
        (2, accelerator(interval=2.5)),  # the next is not likely to come soon enough
        (2, fixed(0.001, b1=1.0, b2=2.0, b4=4.0, b8=8.0)),  # a processor: nothing is saved
    ],
)
def test_no_waiting_where_it_does_not_pay(make, network, clock, workers, costs, put):
    async def work():
        batcher = make(workers=workers, costs=costs)
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        one = put(batcher, 2)
        if workers > 1:
            network.entered.acquire()
        network.gate.set()
        await asyncio.gather(running.done, one.done)

    asyncio.run(work())
    assert network.batches == [1, 1] and clock.pauses == []


def test_a_batcher_that_is_closed_waits_for_no_more(make, network, clock, put):
    async def work():
        batcher = make(workers=2, costs=accelerator())
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        one = put(batcher, 2)
        clock.paused.acquire()
        batcher.close(wait=False)
        network.entered.acquire()
        network.gate.set()
        await asyncio.gather(running.done, one.done)

    asyncio.run(work())
    assert network.batches == [1, 1] and clock.pauses == [2.0]


def test_threads_that_wait_for_more_may_find_nothing_left(make, network, clock, put):
    """Several threads that wait for one more image, and only one that gets it: the others go on waiting."""

    async def work():
        batcher = make(workers=2, costs=accelerator(seconds=60.0))
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        one = put(batcher, 2)
        clock.paused.acquire()
        network.gate.set()
        await running.done
        clock.paused.acquire()  # now both wait for another
        network.gate.clear()
        two = put(batcher, 3)
        network.entered.acquire()
        with batcher._changed:
            batcher._changed.notify_all()
        until(lambda: batcher.num_busy == 1)
        network.gate.set()
        await asyncio.gather(one.done, two.done)
        until(lambda: batcher.num_busy == 0)
        assert all(thread.is_alive() for thread in batcher._threads)

    asyncio.run(work())
    assert network.batches == [1, 2]


def test_what_a_batch_took(make, network, clock, put):
    """Of each job, for the observer, and for the costs, which are to know whether others waited beside it."""
    told, measured = [], []

    async def work():
        costs = fixed(start=4, b4=4.0)
        costs.record_batch = lambda *arguments: measured.append(arguments)
        batcher = make(workers=1, costs=costs, on_batch=lambda *arguments: told.append(arguments))
        network.gate.clear()
        first = put(batcher, 1)
        network.entered.acquire()
        rest = put(batcher, 2, b"bad", 3, 4, 5)
        clock.time += 7.0
        network.gate.set()
        await asyncio.gather(first.done, rest.done)
        await put(batcher, b"bad").done
        return first.jobs + rest.jobs

    first, image, bad, other, fourth, last = asyncio.run(work())
    assert network.batches == [1, 3, 1]
    assert told == [(1, 0.25, 9.0), (3, 1.0, 2.0), (1, 0.25, 2.0)]
    assert measured == [(1, 9.0, 9.25, False), (3, 2.0, 3.0, True), (1, 2.0, 2.25, False)]
    assert [job.batch_size for job in (first, image, bad, other, fourth, last)] == [1, 3, 0, 3, 3, 1]
    assert [job.decode_seconds for job in (image, bad, other)] == [0.25, 0.25, 0.25]
    assert [job.inference_seconds for job in (image, bad, other)] == [2.0, 0.0, 2.0]
    assert first.queue_seconds == 0.0
    assert image.queue_seconds == other.queue_seconds == 9.0  # until the first was done
    assert last.queue_seconds == 9.0 + 3.0


def test_costs_are_told_of_arrivals(make, put):
    told = []

    async def work():
        batcher = make(workers=1)
        batcher.costs.record_arrival = lambda *arguments: told.append(arguments)
        await put(batcher, 1, 2, 3).done

    asyncio.run(work())
    assert told == [(1000.0, 3)]


def test_nobody_waits_in_a_loop_that_has_ended(make, network, put):
    async def leave():
        batcher = make(workers=1)
        network.gate.clear()
        put(batcher, 1)
        network.entered.acquire()
        return batcher

    async def go_on(batcher):
        network.gate.set()
        waiting = put(batcher, 2)
        await waiting.done
        return waiting.jobs[0].values["probabilities"][0]

    assert asyncio.run(go_on(asyncio.run(leave()))) == 2


def test_those_who_look(make, network, put):
    async def work():
        batcher = make(workers=3, name="tulips")
        assert (batcher.num_busy, len(batcher), batcher.queue_load.wait_seconds) == (0, 0, 0.0)
        network.gate.clear()
        running = put(batcher, 1)
        network.entered.acquire()
        assert batcher.num_busy == 1
        network.gate.set()
        await running.done
        assert [thread.name for thread in batcher._threads] == [f"vertebra-tulips-{n}" for n in range(3)]
        # They must not keep the process from ending.
        assert all(thread.daemon for thread in batcher._threads)

    asyncio.run(work())
