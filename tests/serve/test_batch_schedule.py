"""What a worker thread does next, without threads."""

import pytest

from vertebra.serve.batch_costs import BatchCosts
from vertebra.serve.batch_schedule import QueueState, Stop, Take, Wait, next_step


class Costs(BatchCosts):
    """The best size is 4; one more image saves `saving` seconds."""

    next_size = 4

    def __init__(self, saving=0.0):
        self.saving = saving

    def worth_waiting(self, images):
        return self.saving


def step(images, saving=0.0, *, oldest=0.0, idle=0, threads=2, closed=False):
    return next_step(QueueState(images, oldest, idle, threads, closed), Costs(saving))


def test_an_empty_queue():
    assert step(0) == Wait(None) and step(0, saving=1.0) == Wait(None)
    assert step(0, closed=True) == Stop()


@pytest.mark.parametrize(
    ("images", "idle", "count"), [(1, 0, 1), (3, 0, 3), (9, 0, 4), (5, 1, 3), (2, 3, 1), (100, 3, 4), (9, 2, 3)]
)
def test_idle_threads_get_as_many_and_no_batch_is_larger_than_the_best(images, idle, count):
    assert step(images, idle=idle, threads=4) == Take(count)


def test_a_moment_for_one_more_image_where_it_saves_more_than_it_costs():
    assert step(1, saving=2.0) == Wait(2.0)
    assert step(1, saving=2.0, oldest=1.5) == Wait(0.5)
    assert step(1, saving=2.0, oldest=2.0) == Take(1)


@pytest.mark.parametrize("state", [{"idle": 1}, {"threads": 1}, {"closed": True}])
def test_no_moment_where_a_thread_is_idle_or_alone_or_the_batcher_closes(state):
    assert step(1, saving=2.0, **state) == Take(1)
