"""Signals that ask a process to end."""

import contextlib
import os
import signal
import threading

import pytest

from vertebra.signals import TERMINATION_SIGNALS, Terminated, interrupts_kept, raise_on_termination

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


@pytest.mark.parametrize("number", TERMINATION_SIGNALS)
def test_a_signal_is_an_exception_inside(number):
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught, raise_on_termination():
        try:
            signal.raise_signal(number)
        finally:
            assert signal.getsignal(number) is signal.SIG_DFL  # a second one ends the process
    assert isinstance(caught.value, Terminated)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with raise_on_termination():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with raise_on_termination():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize("number", TERMINATION_SIGNALS)
def test_a_forked_process_dies_of_it(number):
    with raise_on_termination():
        child = os.fork()
        if child == 0:
            try:
                signal.raise_signal(number)
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == number


@pytest.mark.parametrize("number", [signal.SIGINT, *TERMINATION_SIGNALS])
def test_an_interrupt_that_became_another_error_is_one_again(number):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught, raise_on_termination(), interrupts_kept():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise RuntimeError("release unlocked lock") from None
    assert getattr(caught.value, "exit_code", 130) == 128 + number
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_was_passed_over_comes_again(monkeypatch):
    monkeypatch.setattr("vertebra.signals.REPEAT_SECONDS", 0.1)
    with pytest.raises(KeyboardInterrupt), interrupts_kept():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        threading.Event().wait(60)
        pytest.fail("it has waited to the end")
    with pytest.raises(KeyboardInterrupt), interrupts_kept(), contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="another"), interrupts_kept():
        raise RuntimeError("another")
