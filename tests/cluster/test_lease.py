"""One driver at a time: a lock on a local disk, a lease on an object store."""

import os
import socket

import pytest

from vertebra.cluster import lease as module
from vertebra.cluster.lease import Lease, only_driver
from vertebra.errors import InUseError
from vertebra.storage import Location


@pytest.fixture
def place(tmp_path):
    return Location(str(tmp_path / "driver.lease"))


def test_a_second_driver_on_a_local_disk_is_refused(tmp_path):
    state = Location(str(tmp_path / "x.csv" / "_vertebra"))
    with only_driver(state), pytest.raises(InUseError, match="another --out"), only_driver(state):
        pass
    with only_driver(state):  # it is free again
        pass


def test_a_lease_that_is_written_is_another_driver_at_work(place, monkeypatch):
    monkeypatch.setattr(module, "EXPIRES", 5.0)
    monkeypatch.setattr(module.time, "sleep", lambda seconds: place.write(b"other-host 1 abc 2\n"))
    place.write(b"other-host 1 abc 1\n")
    with pytest.raises(InUseError, match=r"\(1 on other-host\)"):
        Lease(place).acquire()


def test_the_lease_of_a_killed_driver_is_taken_over(place, monkeypatch):
    monkeypatch.setattr(module, "EXPIRES", 0.0)
    place.write(b"other-host 1 abc 1\n")
    lease = Lease(place)
    lease.acquire()
    assert str(os.getpid()) in place.read_bytes().decode()
    lease.release()
    assert not place.is_file()


def test_the_lease_of_a_process_that_has_ended_here_is_taken_over_at_once(place, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda seconds: pytest.fail("it waits"))
    place.write(f"{socket.gethostname()} {2**22 + 1} abc 1\n".encode())  # above the largest process number
    Lease(place).acquire()
    assert str(os.getpid()) in place.read_bytes().decode()


def test_a_driver_whose_lease_is_taken_notices(place, monkeypatch):
    monkeypatch.setattr(module, "BEAT", 0.0)
    lease = Lease(place)
    lease.acquire()
    place.write(b"other-host 1 abc 1\n")
    lease.beat()
    assert lease.is_lost
    lease.release()
    assert place.is_file()  # the other's


def test_an_object_store_has_a_lease(s3):
    state = Location(f"{s3.uri}/x.csv/_vertebra")
    with only_driver(state):
        assert (state / "driver.lease").is_file()
    assert not (state / "driver.lease").is_file()
