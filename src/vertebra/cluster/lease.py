"""At most one driver writes to a target: a lock on this machine's disks, a lease with a heartbeat elsewhere."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vertebra.errors import InUseError
from vertebra.files import locked, make_folder
from vertebra.storage import Location, StorageError

BEAT = 10.0  # seconds between two signs of life
EXPIRES = 30.0  # seconds without one after which a driver counts as dead


@contextmanager
def only_driver(state: Location, waiting: str = "") -> Iterator[Lease]:
    """Inside, no other driver writes to the run whose state is in this folder.

    On a local disk the system's lock says so. An object store has none: a lease object is written every `BEAT`
    seconds, and who finds one waits `EXPIRES` seconds whether it is written. Two that start within the same second may
    both go on; parts have the same names and contents whoever writes them, so no row is doubled or lost even then.

    Raises:
        InUseError: another driver is at work.
    """
    lease = Lease(state / "driver.lease")
    if not state.is_remote:
        make_folder(state.path)
        with locked(state.path, "give another --out"):
            yield lease
        return
    lease.acquire()
    thread = threading.Thread(target=lease.beat, name="vertebra-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        lease.release()
        thread.join()


class Lease:
    """The lease object of one driver."""

    def __init__(self, place: Location) -> None:
        self._place = place
        self._owner = f"{socket.gethostname()} {os.getpid()} {os.urandom(8).hex()}"
        self._beats = 0
        self._ended = threading.Event()
        self.is_lost = False  # another driver has taken it

    def acquire(self) -> None:
        """Take it; wait where there is one that may be a killed driver's."""
        found = self._read()
        if found is not None and not self._is_dead_here(found):
            end = time.monotonic() + EXPIRES
            while time.monotonic() < end:
                time.sleep(1.0)
                now = self._read()
                if now is None:
                    break
                if now != found:
                    host, process = [*found.split(), "?", "?"][:2]
                    raise InUseError(
                        f"{self._place} is held by another process ({process} on {host}). Wait until that has ended, "
                        "or give another --out."
                    )
        self._write()

    def beat(self) -> None:
        """Write it again and again; runs in a thread."""
        while not self._ended.wait(BEAT):
            try:
                found = self._read()
                if found is not None and self._owner not in found:
                    self.is_lost = True
                    return
                self._write()
            except StorageError:
                continue  # the parts say what is wrong with the storage

    def release(self) -> None:
        """Give it back."""
        self._ended.set()
        if not self.is_lost:
            try:
                self._place.delete()
            except StorageError:
                return  # it expires

    def _write(self) -> None:
        self._beats += 1
        self._place.write(f"{self._owner} {self._beats}\n".encode())

    def _read(self) -> str | None:
        try:
            return self._place.read_bytes().decode("utf-8", "replace")
        except StorageError as error:
            if error.is_missing:
                return None
            raise

    @staticmethod
    def _is_dead_here(found: str) -> bool:
        """Whether it is of a process of this machine that has ended."""
        host, process, *_ = [*found.split(), "", ""]
        if host != socket.gethostname() or not process.isdecimal():
            return False
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False
