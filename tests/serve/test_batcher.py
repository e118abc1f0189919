"""The queue and its threads: what waits together is taken together, nothing waits alone, nothing is lost."""

import asyncio
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from vertebra.errors import ImageError
from vertebra.serve.batcher import Batcher, ClosedError, FullError, Job
from vertebra.serve.costs import Costs


class Network:
    """Remembers its batches; waits at a gate while it has one."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def __call__(self, pixels, outputs):
        self.entered.release()
        assert self.gate.wait(10)
        self.batches.append(len(pixels))
        return [pixels[:, 0, 0, :1].astype(np.float32) for _ in outputs]


def decode(data, name):
    if data == b"bad":
        raise ImageError(f"{name} is bad")
    return np.full((4, 4, 3), data[0], np.uint8), 40, 30


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def make(network):
    made = []

    def build(workers=2, limit=100, costs=None, **options):
        batcher = Batcher(network, decode, workers=workers, limit=limit, costs=costs, **options)
        made.append(batcher)
        return batcher

    yield build
    network.gate.set()
    for batcher in made:
        batcher.close()


def known(start=1, **seconds):
    """Costs that know these sizes: known(b1=…, b2=…)."""
    costs = Costs(start)
    usual = seconds.get(f"b{costs.start}")
    for _ in range(20):
        for name, value in seconds.items():
            for _ in range(8 if usual else 0):
                costs.measured(costs.start, usual, usual)
            costs.measured(int(name[1:]), value, value)
    return costs


def fixed(**seconds):
    """Costs that learn nothing more."""
    costs = known(**seconds)
    costs.measured = lambda *arguments: None
    return costs


@dataclass
class Waiting:
    """Jobs that are to be done within some time."""

    jobs: list
    seconds: float = 10.0

    def put(self, batcher):
        self.ticket = batcher.put(self.jobs, time.monotonic() + self.seconds)

    @property
    def done(self):
        return self.ticket.done


def jobs(*values):
    return [Job(bytes([value]) if isinstance(value, int) else value, f"n{value}") for value in values]


def test_each_job_has_its_own_result(make):
    async def work():
        batcher = make()
        waiting = Waiting(jobs(*range(30), b"bad", np.full((4, 4, 3), 200, np.uint8), lambda: "called"))
        waiting.put(batcher)
        await waiting.done
        return waiting.jobs

    *images, bad, pixels, called = asyncio.run(work())
    assert [job.values["probabilities"][0] for job in images] == list(range(30))
    assert all((job.width, job.height) == (40, 30) and job.batch >= 1 for job in images)
    assert bad.error == "nb'bad' is bad" and bad.values == {}
    assert pixels.values["probabilities"][0] == 200
    assert called.result == "called"


def test_what_waits_is_taken_together_and_shared(make, network):
    async def work():
        batcher = make(workers=2, costs=fixed(start=4, b1=1.0, b2=1.9, b4=3.6, b8=7.2))
        network.gate.clear()
        first = [Waiting(jobs(1)), Waiting(jobs(2))]
        for each in first:
            each.put(batcher)
        network.entered.acquire()
        network.entered.acquire()  # both threads are busy now
        rest = Waiting(jobs(*range(8)))
        rest.put(batcher)
        network.gate.set()
        await asyncio.gather(rest.done, *(each.done for each in first))

    asyncio.run(work())
    # Four are the size to start with, and no other costs clearly less an image.
    assert sorted(network.batches) == [1, 1, 4, 4]


def test_idle_threads_share_what_comes_at_once(make, network):
    async def work():
        batcher = make(workers=2, costs=fixed(start=4, b1=1.0, b2=1.9, b4=3.6, b8=7.2))
        await asyncio.sleep(0.1)
        waiting = Waiting(jobs(1, 2, 3, 4))
        waiting.put(batcher)
        await waiting.done

    asyncio.run(work())
    assert max(network.batches) <= 2


def test_a_full_queue(make, network):
    async def work():
        batcher = make(workers=1, limit=3)
        network.gate.clear()
        running = Waiting(jobs(1))
        running.put(batcher)
        network.entered.acquire()
        waiting = Waiting(jobs(1, 2, 3))
        waiting.put(batcher)
        with pytest.raises(FullError) as caught:
            Waiting(jobs(4)).put(batcher)
        assert caught.value.seconds == pytest.approx(3 * batcher.costs.image)
        network.gate.set()
        await waiting.done

    asyncio.run(work())


def test_what_would_be_late_is_refused(make, network):
    async def work():
        batcher = make(workers=1)
        network.gate.clear()
        for _ in range(2):
            Waiting(jobs(1)).put(batcher)
        network.entered.acquire()
        batcher.costs.image = 3.0
        with pytest.raises(FullError):
            Waiting(jobs(1), seconds=4.0).put(batcher)
        network.gate.set()

    asyncio.run(work())


def test_what_nobody_waits_for_is_not_done(make, network):
    async def work():
        batcher = make(workers=1)
        network.gate.clear()
        running, dropped, late, last = (Waiting(jobs(n), s) for n, s in ((1, 10), (2, 10), (3, 0.2), (4, 10)))
        running.put(batcher)
        network.entered.acquire()
        for each in (dropped, late, last):
            each.put(batcher)
        dropped.ticket.dropped = True
        await asyncio.sleep(0.3)
        network.gate.set()
        await last.done
        assert not dropped.done.done() and not late.done.done()

    asyncio.run(work())
    assert network.batches == [1, 1]


def test_a_failure_reaches_those_who_wait_and_the_thread_lives_on(make, network, monkeypatch):
    async def work():
        batcher = make(workers=1)
        monkeypatch.setattr(batcher, "_run", lambda *arguments: 1 / 0)
        broken = Waiting(jobs(1))
        broken.put(batcher)
        await broken.done
        assert isinstance(broken.jobs[0].failure, ZeroDivisionError)
        monkeypatch.undo()
        sound = Waiting(jobs(1))
        sound.put(batcher)
        await sound.done
        assert sound.jobs[0].failure is None

    asyncio.run(work())


def test_closing_finishes_what_waits(make, network):
    async def work():
        batcher = make(workers=1)
        network.gate.clear()
        waiting = Waiting(jobs(*range(10)))
        waiting.put(batcher)
        threading.Timer(0.1, network.gate.set).start()
        await asyncio.to_thread(batcher.close)
        await waiting.done
        with pytest.raises(ClosedError):
            Waiting(jobs(1)).put(batcher)

    asyncio.run(work())
    assert sum(network.batches) == 10


def test_waiting_for_one_more_where_it_pays(make, network):
    """On an accelerator, where two images take as long as one, a busy batcher waits for the next one to come."""

    async def work():
        batcher = make(workers=2, costs=fixed(b1=2.0, b2=2.0, b4=2.0, b8=2.0))
        batcher.costs.interval = 0.001
        network.gate.clear()
        (running := Waiting(jobs(1))).put(batcher)
        network.entered.acquire()
        (one := Waiting(jobs(2))).put(batcher)
        await asyncio.sleep(0.05)
        assert len(batcher) in (0, 1)
        (two := Waiting(jobs(3))).put(batcher)
        network.gate.set()
        await asyncio.gather(running.done, one.done, two.done)

    asyncio.run(work())
    assert sum(network.batches) == 3


# --- costs ------------------------------------------------------------------------------------------------------------


def test_another_size_than_the_first_must_save_more_than_noise():
    assert known(b1=1.0, b2=2.0).best == 1
    assert known(b1=1.0, b2=1.85).best == 1
    assert known(b1=1.0, b2=1.6, b4=3.2).best in (2, 4)
    assert known(b1=1.0, b2=1.6, b4=2.4, b8=4.9).best == 4
    assert known(b1=1.0, b2=1.99, b4=3.5, b8=7.2).best == 4  # one step that saves nothing is no end
    assert known(start=4, b1=1.0, b2=2.0, b4=4.4).best == 4
    assert known(start=4, b1=1.0, b2=2.1, b4=4.5).best == 1
    assert known(start=7, b1=1.0).best == 4  # not known yet
    assert known().best == 1


def test_the_warm_up_is_not_compared_with_batches_under_load():
    costs = Costs(4)
    for size, seconds in ((1, 0.5), (2, 1.0), (4, 2.0)):
        costs.warm(size, seconds)
    assert costs.image == 0.5
    for _ in range(100):
        costs.measured(4, 4.0, 4.0)
    assert costs.batch[4] == 4.0 and costs.best == 4
    for _ in range(7):
        costs.measured(1, 0.5, 0.5)
    assert costs.best == 4  # too few to be sure
    costs.measured(1, 0.5, 0.5)
    assert costs.best == 1


def test_a_slow_minute_makes_no_size_look_bad():
    costs = known(start=4, b2=2.0, b4=4.0, b8=8.0)
    for _ in range(1000):
        costs.measured(4, 6.0, 6.0)
        assert costs.best == 4


def test_the_small_batches_at_the_end_of_a_rush_prove_nothing():
    costs = known(start=4, b4=4.0)
    for _ in range(100):
        costs.measured(1, 0.5, 0.5, crowded=False)
        costs.measured(4, 4.0, 4.0)
    assert costs.best == 4 and costs.batch[1] == 0.5


def test_neighbouring_sizes_are_tried_now_and_then():
    costs = known(start=4, b4=4.0)
    taken = [costs.size(100) for _ in range(2560)]
    assert taken.count(8) == taken.count(2) == 5 and taken.count(4) == 2550
    assert costs.size(1) == 1


def test_waiting_pays_only_where_batches_save_time_and_images_come_soon():
    processor = known(start=4, b1=1.0, b2=1.9, b3=2.8, b4=3.6, b8=7.2)
    processor.interval = 0.5
    assert processor.worth_waiting(1) == 0  # 0.1 s saved, 0.5 s to wait
    processor.interval = 0.01
    assert processor.worth_waiting(1) == pytest.approx(0.1)
    assert processor.worth_waiting(4) == 0  # a full batch
    assert known(b1=1.0).worth_waiting(1) == 0  # nothing known


def test_running_means():
    costs = Costs()
    costs.measured(2, 1.0, 2.0)
    assert costs.batch == {2: 1.0}
    costs.measured(2, 2.0, 2.0)
    assert costs.batch[2] == pytest.approx(1.1)
    before = costs.interval
    costs.arrived(100.0, 1)
    costs.arrived(100.01, 1)
    assert costs.interval < before


def test_threads_that_wait_for_more_may_find_nothing_left(make, network):
    """Several threads that wait for one more image, and only one that gets it: the others go on waiting."""

    async def work():
        batcher = make(workers=4, costs=fixed(b1=0.02, b2=0.02, b4=0.02, b8=0.02))
        batcher.costs.arrived = lambda *arguments: None
        batcher.costs.interval = 0.001
        for turn in range(200):
            waiting = [Waiting(jobs(n)) for n in range(1 + turn % 7)]
            for each in waiting:
                each.put(batcher)
                await asyncio.sleep(0.0005)
            await asyncio.gather(*(each.done for each in waiting))
        assert all(thread.is_alive() for thread in batcher._threads)

    asyncio.run(work())
