"""What a service, a network and a careless address do is told in one line, in bounded time, without credentials."""

import os
import pickle
import subprocess
import sys
import time

import pytest
import s3_server
from faulty_s3 import Cut, Refuse, Stall

from vertebra.errors import UsageError
from vertebra.storage import Location, StorageError
from vertebra.storage.errors import redact, storage_error

FILE = Location("s3://bucket/photos/1.jpg")
FOLDER = Location("s3://bucket/photos")
SLOW = pytest.mark.slow  # seconds of waiting
REGION = (("x-amz-bucket-region", "eu-west-1"),)


def read():
    return FILE.read_bytes()


def list_all():
    return list(FOLDER.list())


def write():
    Location("s3://bucket/new").write(b"new")


def fails(action, transient):
    """The one line with which it fails."""
    begin = time.monotonic()
    with pytest.raises(StorageError) as caught:
        action()
    assert time.monotonic() - begin < 30
    text = str(caught.value)
    assert "\n" not in text and text.startswith("s3://bucket/") and text.endswith(".")
    assert caught.value.is_transient == transient
    assert s3_server.KEY not in text and s3_server.SECRET not in text
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.is_transient) == (text, transient)
    return text


@pytest.mark.parametrize("action", [read, FILE.state, FILE.is_file, list_all, write])
def test_denied_is_not_tried_again(faulty, action):
    faulty.faults.append(Refuse())
    assert "access is denied (403). Of credentials those of AWS_ACCESS_KEY_ID are refused: check" in fails(
        action, False
    )
    assert len(faulty.requests) == 1


def test_which_credentials_were_denied(faulty, monkeypatch, tmp_path):
    faulty.faults.append(Refuse())
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name)
    assert "those of AWS_PROFILE=lab are refused" in fails(read, False)
    monkeypatch.delenv("AWS_PROFILE")
    assert "no credentials are set. Set AWS_ACCESS_KEY_ID and" in fails(read, False)
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    assert "without credentials, as AWS_NO_SIGN_REQUEST asks" in fails(read, False)


@pytest.mark.parametrize("action", [read, list_all, write])
def test_another_region(faulty, action):
    faulty.faults.append(Refuse(status=301, code="PermanentRedirect", headers=REGION))
    assert "the bucket is in another region (301). Set AWS_REGION to its region." in fails(action, False)


@pytest.mark.parametrize("action", [read, list_all, write])
def test_an_overloaded_service(faulty, action):
    faulty.faults.append(Refuse(status=503, code="SlowDown"))
    assert "the service is overloaded or down (503" in fails(action, True)
    assert len(faulty.requests) == 2


def test_what_passes_is_tried_again(faulty):
    faulty.faults += [Refuse("HEAD", times=1, status=503, code="SlowDown"), Cut("GET", times=1)]
    assert read() == faulty.objects["bucket/photos/1.jpg"]
    assert len(faulty.requests) == 4


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_cut_connection_gives_no_part_of_a_file(faulty, share):
    faulty.faults.append(Cut("GET", share=share))
    assert "was cut, also after several tries" in fails(read, True)
    with FILE.open() as file:
        assert "was cut" in fails(lambda: file.read(50_000), True)


@pytest.mark.parametrize("action", [read, pytest.param(list_all, marks=SLOW), pytest.param(write, marks=SLOW)])
def test_a_service_that_does_not_answer(faulty, action):
    faulty.faults.append(Stall())
    assert "answer" in fails(action, True)


@pytest.mark.parametrize(
    "fault", [pytest.param(Cut("GET", stalls=True), marks=SLOW), Cut("GET", drips=True)], ids=["stalls", "drips"]
)
def test_a_body_that_does_not_end(faulty, fault):
    faulty.faults.append(fault)
    assert "answer" in fails(read, True)


def test_a_shorter_object_is_not_taken_for_whole(faulty):
    with FILE.open() as file:
        faulty.objects["bucket/photos/1.jpg"] = b"short"
        assert "fewer bytes came than its size says" in fails(lambda: file.read(1_000), True)


def test_a_large_file_that_is_replaced_while_it_is_read(faulty, monkeypatch):
    monkeypatch.setattr("vertebra.storage.remote_file._PART", 1_000)
    with FILE.open() as file:
        faulty.objects["bucket/photos/1.jpg"] = bytes(100_000)
        assert "has changed while it was read" in fails(file.read, True)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        ("http://127.0.0.1:9", "the service at http://127.0.0.1:9 (AWS_ENDPOINT_URL) refuses connections. Check the"),
        ("http://me:hidden@nowhere.invalid", "the service at http://…@nowhere.invalid (AWS_ENDPOINT_URL)"),
        ("http://nowhere.invalid", "the name of the service at http://nowhere.invalid (AWS_ENDPOINT_URL) is not known"),
    ],
)
def test_an_endpoint_that_is_not_there(faulty, monkeypatch, endpoint, text):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    found = fails(read, True)
    assert text in found
    assert "hidden" not in found


@pytest.mark.parametrize(
    "address",
    [
        f"s3://{s3_server.KEY}:{s3_server.SECRET}@bucket/x",  # whose secret has a / in it
        "s3://KEY:hushhush@bucket",
        "s3://hushhush@bucket/x",
        "abfs://me:hushhush@host/x",
        "s3://bucket/x?X-Amz-Credential=KEY&X-Amz-Signature=hushhush",
    ],
)
def test_credentials_in_an_address_are_refused_without_them(address):
    with pytest.raises(UsageError, match="which would be logged") as caught:
        Location(address)
    assert not any(secret in str(caught.value) for secret in ("hushhush", "KEY:", s3_server.SECRET, s3_server.KEY))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("http://me:hushhush@host/a.jpg?X-Amz-Signature=hushhush", r"^http://host/a.jpg is a web address, .*Download"),
        ("ftp://host/a", r"^ftp:// is not read; a path is, and s3://, gs://, gcs://, hdfs://, abfs://, abfss://\.$"),
        ("s3a://bucket/a", "Write s3://…"),
        ("S3://bucket/a", "Write s3://…"),
        ("file:///tmp/a", "write the path of a local file without file://"),
        ("s3://", "names no bucket"),
        ("s3:///a", "names no bucket"),
        ("s3://bucket/a?endpoint_override=localhost", r"options in an address \(endpoint_override=…\) are not read"),
    ],
)
def test_an_address_that_is_not_read(address, text):
    for action in (Location(address).read_bytes, lambda: list(Location(address).list()), Location(address).is_file):
        with pytest.raises(UsageError, match=text) as caught:
            action()
        assert isinstance(caught.value, StorageError)
        assert "hushhush" not in str(caught.value)


@pytest.mark.parametrize("given", ["soon", "0", "nan", "1e9"])
def test_seconds_that_are_none(faulty, monkeypatch, given):
    monkeypatch.setenv("VERTEBRA_REMOTE_SECONDS", given)
    with pytest.raises(UsageError, match=r"VERTEBRA_REMOTE_SECONDS is .* give seconds from 1 to 3600"):
        read()


def test_what_a_service_says_is_redacted(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.SECRET)
    text = f"key {s3_server.KEY} secret {s3_server.SECRET} at https://u:p@host/x?X-Amz-Signature=abc&X-Amz-Date=1"
    assert redact(text) == "key … secret … at https://…@host/x?X-Amz-Signature=…&X-Amz-Date=…"
    assert s3_server.KEY not in str(storage_error(OSError(text), "s3://bucket/x", "read"))


@pytest.mark.parametrize("status", [pytest.param(0, marks=SLOW), 3])
def test_a_process_ends_while_a_read_hangs(faulty, status):
    faulty.faults.append(Stall())
    code = (
        "import sys, threading, time\nfrom vertebra.storage import Location\n"
        "threading.Thread(target=Location('s3://bucket/photos/1.jpg').read_bytes, daemon=True).start()\n"
        f"time.sleep(1)\nprint('done')\nsys.exit({status})"
    )
    environment = {**os.environ, "VERTEBRA_REMOTE_SECONDS": "600"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "done\n", "")
