"""A small S3 that fails on demand, in the place of the real one."""

import time

import pytest
import s3_server
from faulty_s3 import FaultyS3

from vertebra.storage.bounded_calls import running_calls


@pytest.fixture
def faulty(monkeypatch):
    """The server, with `bucket/photos/1.jpg` (100,000 bytes); a request has 2 s."""
    pytest.importorskip("pyarrow.fs", reason="pyarrow is not installed")
    with FaultyS3() as server:
        for name in s3_server.UNSET:
            monkeypatch.delenv(name, raising=False)
        for name, value in s3_server.environment(server.endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("VERTEBRA_REMOTE_SECONDS", "2")
        server.objects["bucket/photos/1.jpg"] = bytes(range(250)) * 400
        yield server
    # pyarrow opens no other file system while a request is running.
    ends = time.monotonic() + 20
    while running_calls() and time.monotonic() < ends:
        time.sleep(0.02)
