"""How far long work is: bars, lines, rates and the time left."""

import io
import sys
import threading

import pytest

from vertebra import progress as module
from vertebra.progress import Pace, duration, progress_bar
from vertebra.units import size


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.mark.parametrize(
    ("told", "seconds", "line"),
    [
        ([], 8, "finding the photos: 8 s so far"),
        ([("exporting", 0, 1)], 10, "exporting: 10 s so far"),
        ([("fitting", 0, 600)], 10, "fitting: 0 of 600, 10 s so far"),
        ([("fitting", 30, 600)], 10, "fitting: 30 of 600, 3/s, about 3 min 10 s left"),
        ([("fitting", 5, 600)], 10, "fitting: 5 of 600, 0.5/s, about 19 min 50 s left"),
        ([("fitting", 600, 600)], 10, "fitting: 600 of 600, 60/s, about 0 s left"),
        ([("predicting", 12_345, None)], 10, "predicting: 12,345, 1,234/s, 10 s so far"),
        ([("training: epoch 1 of 9", 20, 90)], 10, "training: epoch 1 of 9: 20 of 90, 2/s, about 35 s left"),
    ],
)  # fmt: skip
def test_a_line_says_what_is_done_how_fast_and_for_how_long(clock, told, seconds, line):
    pace = Pace("finding the photos", clock)
    for what, done, total in told:
        pace.update(what, 0, total)
        clock.now += seconds
        pace.update(what, done, total)
    clock.now += 0 if told else seconds
    assert pace.line() == line


def test_a_step_is_judged_by_its_own_speed(clock):
    pace = Pace("features", clock)
    clock.now += 100
    assert pace.update("features", 1000, 2000) is False
    assert pace.rate == 10
    clock.now += 1
    assert pace.update("fitting: 1", 0, 8) is True
    clock.now += 2
    assert pace.update("fitting: 2", 4, 8) is False  # the step's name ends at the colon
    assert (pace.rate, pace.left) == (2, 2)


def test_what_was_done_before_is_no_speed(clock):
    pace = Pace("preparing", clock)
    pace.update("training: epoch 5", 5000, 6000)  # a run that goes on
    assert pace.line() == "training: epoch 5: 5,000 of 6,000, 0 s so far"
    clock.now += 10
    pace.update("training: epoch 5", 5100, 6000)
    assert (pace.rate, pace.left) == (10, 90)


def test_the_same_step_once_more_begins_anew(clock):
    pace = Pace("predicting in float32", clock)
    pace.update("predicting in float32", 0, 100)
    clock.now += 10
    pace.update("predicting in float32", 96, 100)
    assert pace.update("predicting in float32", 0, 500) is True
    assert pace.seconds == 0


def test_bytes_are_written_as_such(clock):
    pace = Pace("net.pth", clock)
    clock.now += 10
    pace.update("net.pth", 50_000_000, 150_000_000)
    assert pace.line(size) == "net.pth: 50.0 MB of 150 MB, 5.00 MB/s, about 20 s left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3725, "1 h 2 min"), (4e6, "1,111 h 6 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


class Stream(io.StringIO):
    """Standard error; `lines` of them have been written when `full` is set."""

    def __init__(self, terminal=False, lines=1):
        super().__init__()
        self.terminal, self.lines, self.full = terminal, lines, threading.Event()

    def isatty(self):
        return self.terminal

    def flush(self):
        if self.getvalue().count("\n") >= self.lines:
            self.full.set()


def test_without_a_terminal_lines_come_by_themselves(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(sys, "stderr", Stream(lines=2))
    with progress_bar("finding\x1b the photos"):  # and nothing is told
        assert sys.stderr.full.wait(30)
    lines = sys.stderr.getvalue().splitlines()
    assert all(line.startswith("vertebra: finding\\x1b the photos: 0 s so far") for line in lines)
    assert "vertebra-progress" not in {thread.name for thread in threading.enumerate()}


def test_work_that_ends_soon_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream())
    with pytest.raises(ValueError, match="odd"), progress_bar("fitting") as progress:
        progress("fitting", 1, 2)
        raise ValueError("odd")
    assert sys.stderr.getvalue() == ""
    assert "vertebra-progress" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("in_bytes", [False, True])
def test_the_first_bar_on_a_terminal_has_its_name(monkeypatch, in_bytes):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", Stream(terminal=True))
    with progress_bar("finding the photos", in_bytes=in_bytes) as progress:
        assert "finding the photos" in sys.stderr.getvalue()
        progress("looking: a", 1, 3)
        progress("looking: b", 3, 3)
        progress("fitting", 0, 2)
        progress("exporting")
    assert "fitting" in sys.stderr.getvalue() and "exporting" in sys.stderr.getvalue()


def test_a_terminal_may_do_without_a_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(terminal=True))
    with progress_bar("predicting", bar=False) as progress:
        progress("predicting", 1, 3)
    assert sys.stderr.getvalue() == ""
