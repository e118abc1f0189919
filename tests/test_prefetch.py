"""Work by several threads: in order, bounded, and ended when the consumer ends."""

import threading
import time

import pytest

from vertebra.prefetch import in_order


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 4, 101])
def test_results_come_in_order(workers, chunk, count):
    def work(part):
        time.sleep(0.002 * (part[0] % 3))  # later chunks are often done first
        return [item * 2 for item in part]

    assert list(in_order(range(count), work, workers=workers, chunk=chunk)) == [item * 2 for item in range(count)]


def test_chunks_are_as_large_as_asked():
    sizes = []

    def work(part):
        sizes.append(len(part))
        return part

    assert len(list(in_order(range(10), work, workers=1, chunk=4))) == 10
    assert sizes == [4, 4, 2]


def test_no_more_than_the_window_is_read_ahead():
    read = []

    def items():
        for item in range(1000):
            read.append(item)
            yield item

    results = in_order(items(), lambda part: part, workers=3, chunk=2, window=5)
    assert next(results) == 0
    time.sleep(0.1)
    assert 2 <= len(read) <= 10
    results.close()


def test_an_error_comes_after_the_results_before_it():
    def work(part):
        if 7 in part:
            raise ValueError("seven")
        return part

    found = []
    with pytest.raises(ValueError, match="seven"):
        for item in in_order(range(100), work, workers=3, chunk=2):
            found.append(item)
    assert found == list(range(6))


def test_an_error_of_the_items_too():
    def items():
        yield from range(3)
        raise ValueError("no more")

    found = []
    with pytest.raises(ValueError, match="no more"):
        for item in in_order(items(), lambda part: part, workers=2, chunk=1):
            found.append(item)
    assert found == [0, 1, 2]


def test_threads_end_with_the_consumer():
    before = threading.active_count()
    results = in_order(range(10_000), lambda part: part, workers=3, chunk=1)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before
