"""Work by several threads: in order, bounded, and ended when the consumer ends."""

import os
import subprocess
import sys
import threading
import time

import pytest

from vertebra import prefetch
from vertebra.prefetch import in_order, read_ahead


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


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("chunk", [1, 2, 3, 16])
def test_an_error_of_the_items_too(workers, chunk):
    def items():
        yield from range(3)
        raise ValueError("no more")

    found = []
    with pytest.raises(ValueError, match="no more"):
        for item in in_order(items(), lambda part: part, workers=workers, chunk=chunk):
            found.append(item)
    assert found == [0, 1, 2]


def test_an_error_of_work_is_before_one_of_the_items():
    def items():
        yield 1
        raise ValueError("no more")

    def fail(part):
        raise ValueError("of work")

    with pytest.raises(ValueError, match="of work"):
        list(in_order(items(), fail, workers=2, chunk=2))


def test_what_stops_the_items_stops_at_once():
    def items():
        yield 1
        raise KeyboardInterrupt

    worked = []
    with pytest.raises(KeyboardInterrupt):
        list(in_order(items(), worked.append, workers=2, chunk=2))
    assert not worked


FORK = """
import os, sys
from vertebra.errors import VertebraError
from vertebra.prefetch import in_order

results = in_order(range(1000), lambda part: part, workers=2, chunk=1, window=4)
if sys.argv[1] == "begun":
    next(results)
child = os.fork()
if not child:
    try:
        list(results)
    except VertebraError as error:
        print(error, flush=True)
    finally:
        del results
        os._exit(0)
os.waitpid(child, 0)
print(sum(results))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("begun", ["begun", "not begun"])
def test_a_forked_process_is_told_that_it_has_no_threads(begun):
    done = subprocess.run([sys.executable, "-c", FORK, begun], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told, total = done.stdout.splitlines()
    assert told.startswith("these results were begun in the process that this one was forked from")
    assert total == str(sum(range(1000)))  # the parent goes on


def test_threads_end_with_the_consumer():
    before = threading.active_count()
    results = in_order(range(10_000), lambda part: part, workers=3, chunk=1)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("window", [2, 5, 64])
def test_results_that_the_window_or_the_end_waits_for_are_not_delayed(monkeypatch, window):
    monkeypatch.setattr(prefetch, "_PAUSE", 3600.0)
    found = []
    results = in_order(range(200), lambda part: part, workers=2, chunk=1, window=window)
    consumer = threading.Thread(target=lambda: found.extend(results), daemon=True)
    consumer.start()
    consumer.join(30.0)
    assert found == list(range(200))


def test_the_first_result_is_not_delayed(monkeypatch):
    monkeypatch.setattr(prefetch, "_PAUSE", 3600.0)
    more = threading.Event()

    def items():
        yield "first"
        more.wait(30.0)
        yield "second"

    results = in_order(items(), lambda part: part, workers=2, chunk=1)
    assert next(results) == "first" and not more.is_set()
    more.set()
    assert list(results) == ["second"]


def test_what_is_quickly_read_takes_no_more_threads_than_work():
    threads = set()

    def work(part):
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return part

    found = read_ahead(range(100), lambda part: part, work, workers=2, chunk=1, is_slow=lambda part: False)
    assert list(found) == list(range(100))
    assert len(threads) <= 2


@pytest.mark.parametrize("slow", [None, lambda part: part[0] >= 3])
def test_slow_reading_is_ahead_of_work(slow):
    at_once = threading.Barrier(4)  # reads, of one worker and the readers
    working = []

    def read(part):
        if part[0] >= 3:
            at_once.wait(5.0)
        return part

    def work(part):
        working.append(part)
        assert len(working) == 1
        time.sleep(0.001)
        working.remove(part)
        return part

    how = {"is_slow": slow} if slow else {}
    assert list(read_ahead(range(11), read, work, workers=1, chunk=1, **how)) == list(range(11))
