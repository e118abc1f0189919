"""Which images a queue accepts."""

import pytest

from vertebra.serve.queue_limit import QueueFullError, QueueLoad


def admits(images, count, seconds_left, limit=10):
    try:
        QueueLoad(images, limit, seconds_per_image=2.0, num_threads=2).require_room(count, seconds_left)
    except QueueFullError as full:
        assert full.seconds == images  # of 2 s each, for two threads
        return False
    return True


@pytest.mark.parametrize(
    ("images", "count", "admitted"), [(0, 10, True), (0, 11, False), (6, 4, True), (6, 5, False), (10, 1, False)]
)
def test_the_number_of_images(images, count, admitted):
    assert admits(images, count, 1e9) is admitted


def test_time_for_the_wait_and_half_of_it_and_the_image():
    assert admits(4, 1, 8.0) and not admits(4, 1, 7.9)


def test_an_empty_queue_takes_what_may_be_late():
    assert admits(0, 1, -1.0) and not admits(1, 1, -1.0)
