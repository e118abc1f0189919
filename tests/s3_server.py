"""S3 for tests: moto's server on 127.0.0.1, in a thread of this process.

The fixtures `s3_server` (one a process) and `s3` (a bucket of one test's own, with the variables set) are in
conftest.py. A process that a test starts inherits the variables, and so the server: `env=os.environ`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGION = "us-east-1"
KEY, SECRET = "AKIATESTTESTTESTTEST", "made/up+secret/of/the/tests/made/up/sec"  # never to be seen in any output
# What would lead elsewhere than to the server.
UNSET = (
    *("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN"),
    *("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
)
_numbers = itertools.count()


def environment(endpoint: str) -> dict[str, str]:
    """The variables with which S3 is the server at `endpoint`."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


@dataclass
class Bucket:
    """A bucket of the server."""

    name: str
    client: Any  # boto3's
    endpoint: str

    @property
    def uri(self) -> str:
        """`s3://NAME`."""
        return f"s3://{self.name}"

    def put(self, key: str, content: bytes) -> str:
        """Write an object and return its address."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        return f"{self.uri}/{key}"

    def get(self, key: str) -> bytes:
        """Return the content of an object."""
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys that begin with `prefix`, in S3's order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return [found["Key"] for page in pages for found in page.get("Contents", ())]

    def upload(self, folder: Path, prefix: str) -> str:
        """Write all files below a folder, and return the address of the prefix."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"{self.uri}/{prefix}"

    def unfinished_uploads(self) -> list[str]:
        """Return the keys of multipart uploads that were neither completed nor aborted."""
        return [found["Key"] for found in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Run the server; yields its address."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def make_bucket(endpoint: str) -> Bucket:
    """Make a bucket that no other test has."""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET
    )
    name = f"bucket-{next(_numbers)}"
    client.create_bucket(Bucket=name)
    return Bucket(name, client, endpoint)
