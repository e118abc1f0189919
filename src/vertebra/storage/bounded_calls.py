"""`Call`: a call into a file system's library that ends after a given time, and at Ctrl-C.

pyarrow cannot be interrupted and waits as long as a server sends a byte now and then. So each call runs in a thread of
its own (50 µs), which is abandoned when its time is over.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_EXIT_SECONDS = 1.0  # that running calls have at the end of the process
_running = 0
_lock = threading.Lock()


class CallTimeoutError(TimeoutError):
    """A call has not ended in its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not answered within {seconds:.0f} s")
        self.seconds = seconds


class Call(Generic[T]):
    """A call that has been started; `result` waits for it."""

    def __init__(self, function: Callable[[], T], seconds: float) -> None:
        self._function = function
        self._seconds = seconds
        self._ends = time.monotonic() + seconds
        self._done = threading.Event()
        self._result: list[T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="vertebra-storage", daemon=True).start()

    def result(self) -> T:
        """Return the result, or raise what the call has raised; a `CallTimeoutError` when its time is over."""
        if not self._done.wait(max(0.0, self._ends - time.monotonic())):
            raise CallTimeoutError(self._seconds)
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        global _running
        with _lock:
            _running += 1
        try:
            self._result.append(self._function())
        except BaseException as error:
            self._error = error
        finally:
            with _lock:
                _running -= 1
            self._done.set()


def running_calls() -> int:
    """Return the number of calls that run, abandoned ones included."""
    return _running


def finalize_s3_at_exit() -> None:
    """Let the process end while calls are running: pyarrow's own handler waits for them, for minutes if need be."""
    from pyarrow import fs

    finalize: Any = getattr(fs, "ensure_s3_finalized", None)
    if finalize is None:  # pyarrow was built without S3
        return
    atexit.unregister(finalize)
    atexit.unregister(_end)
    atexit.register(_end, finalize)


def _end(finalize: Callable[[], None]) -> None:
    ends = time.monotonic() + _EXIT_SECONDS
    while _running and time.monotonic() < ends:
        time.sleep(0.01)
    if _running and _skip_destructors():
        return
    finalize()


def _skip_destructors() -> bool:
    """Let the process end by `_exit`, with its status, once Python is done; False where the system cannot.

    Destructors of C++ would crash under a running call.
    """
    import ctypes

    try:
        library = ctypes.CDLL(None)
        return bool(library.on_exit(library._exit, None) == 0)  # of glibc: calls `_exit(status, None)` first
    except (OSError, AttributeError, TypeError):
        return False
