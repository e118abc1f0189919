"""Waiting for what other threads and processes do: `until(lambda: path.exists())`."""

import time


def until(condition, seconds=30):
    """Wait until a condition holds; a test that waits in vain fails instead of waiting for ever."""
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop, f"not so after {seconds} s"
        time.sleep(0.005)
