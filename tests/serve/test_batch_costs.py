"""What batches cost, and what follows from it."""

import pytest

from vertebra.serve.batch_costs import BatchCosts


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


def test_another_size_than_the_first_must_save_more_than_noise():
    assert known(b1=1.0, b2=2.0).best_size == 1
    assert known(b1=1.0, b2=1.85).best_size == 1
    assert known(b1=1.0, b2=1.6, b4=3.2).best_size in (2, 4)
    assert known(b1=1.0, b2=1.6, b4=2.4, b8=4.9).best_size == 4
    assert known(b1=1.0, b2=1.99, b4=3.5, b8=7.2).best_size == 4  # one step that saves nothing is no end
    assert known(start=4, b1=1.0, b2=2.0, b4=4.4).best_size == 4
    assert known(start=4, b1=1.0, b2=2.1, b4=4.5).best_size == 1
    assert known(start=7, b1=1.0).best_size == 4  # not known yet
    assert known().best_size == 1


def test_the_warm_up_is_not_compared_with_batches_under_load():
    costs = BatchCosts(4)
    for size, seconds in ((1, 0.5), (2, 1.0), (4, 2.0)):
        costs.record_warm_up(size, seconds)
    assert costs.seconds_per_image == 0.5
    for _ in range(100):
        costs.record_batch(4, 4.0, 4.0)
    assert costs.batch_seconds[4] == 4.0 and costs.best_size == 4
    for _ in range(7):
        costs.record_batch(1, 0.5, 0.5)
    assert costs.best_size == 4  # too few to be sure
    costs.record_batch(1, 0.5, 0.5)
    assert costs.best_size == 1


def test_a_slow_minute_makes_no_size_look_bad():
    costs = known(start=4, b2=2.0, b4=4.0, b8=8.0)
    for _ in range(1000):
        costs.record_batch(4, 6.0, 6.0)
        assert costs.best_size == 4


def test_the_small_batches_at_the_end_of_a_rush_prove_nothing():
    costs = known(start=4, b4=4.0)
    for _ in range(100):
        costs.record_batch(1, 0.5, 0.5, is_saturated=False)
        costs.record_batch(4, 4.0, 4.0)
    assert costs.best_size == 4 and costs.batch_seconds[1] == 0.5


def test_neighbouring_sizes_are_tried_now_and_then():
    costs = known(start=4, b4=4.0)
    sizes = [costs.next_batch_size(100, 0) for _ in range(2560)]
    assert sizes.count(8) == sizes.count(2) == 5 and sizes.count(4) == 2550
    assert sizes.index(8) == 255 and sizes.index(2) == 511


@pytest.mark.parametrize(
    ("images", "idle", "count"), [(1, 0, 1), (3, 0, 3), (9, 0, 4), (5, 1, 3), (2, 3, 1), (100, 3, 4), (9, 2, 3)]
)
def test_idle_threads_get_as_many_and_no_batch_is_larger_than_the_best(images, idle, count):
    assert known(start=4, b4=4.0).next_batch_size(images, idle) == count


def test_waiting_pays_only_where_batches_save_time_and_images_come_soon():
    processor = known(start=4, b1=1.0, b2=1.9, b3=2.8, b4=3.6, b8=7.2)
    processor.arrival_interval = 0.5
    assert processor.seconds_worth_waiting(1) == 0  # 0.1 s saved, 0.5 s to wait
    processor.arrival_interval = 0.01
    assert processor.seconds_worth_waiting(1) == pytest.approx(0.1)
    assert processor.seconds_worth_waiting(4) == 0  # a full batch
    assert known(b1=1.0).seconds_worth_waiting(1) == 0  # nothing known


def test_running_means():
    costs = BatchCosts()
    costs.record_batch(2, 1.0, 2.0)
    assert costs.batch_seconds == {2: 1.0}
    costs.record_batch(2, 2.0, 2.0)
    assert costs.batch_seconds[2] == pytest.approx(1.1)
    before = costs.arrival_interval
    costs.record_arrival(100.0, 1)
    costs.record_arrival(100.01, 1)
    assert costs.arrival_interval < before
