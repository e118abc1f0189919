"""A small S3 that fails on demand, with a photo."""

import pytest


@pytest.fixture
def faulty(faulty_s3, monkeypatch):
    """The server, with `bucket/photos/1.jpg` (100,000 bytes); a request has 2 s."""
    monkeypatch.setenv("VERTEBRA_REMOTE_SECONDS", "2")
    faulty_s3.objects["bucket/photos/1.jpg"] = bytes(range(250)) * 400
    return faulty_s3
