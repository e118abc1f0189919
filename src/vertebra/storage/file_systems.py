"""pyarrow's file systems by URI, opened once a process.

`s3://BUCKET/KEY` is configured by AWS's own variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or
AWS_PROFILE (with ~/.aws), or the role of the machine or pod; AWS_REGION (else the bucket's is asked for);
AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL for another service such as MinIO. With AWS_NO_SIGN_REQUEST=YES a public bucket
is read without credentials. A key is written as it is: `%20` is no space.

VERTEBRA_REMOTE_SECONDS (30) bounds the time in which a request must be answered, with all tries. What is transient
(503, a cut or refused connection, a timeout) is tried up to five times with growing pauses; 403 and 404 are not.

`gs://`, `hdfs://` and `abfs://` go through `pyarrow.fs.FileSystem.from_uri` and its variables, untested.
"""

from __future__ import annotations

import functools
import math
import os
import re
from typing import Any

from vertebra.errors import UsageError, require_extra, suggest

from .bounded_calls import finalize_s3_at_exit
from .errors import AddressError, is_anonymous

REMOTE_SCHEMES = ("s3", "gs", "gcs", "hdfs", "abfs", "abfss")
_WITH_BUCKETS = ("s3", "gs", "gcs")
_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_NO_SIGN_REQUEST"),
    "VERTEBRA_REMOTE_SECONDS",
)
_SECONDS = 30.0


def remote_seconds() -> float:
    """The time in which a request must be answered; `VERTEBRA_REMOTE_SECONDS`."""
    given = os.environ.get("VERTEBRA_REMOTE_SECONDS")
    if not given:
        return _SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= 3600:
        raise UsageError(f"VERTEBRA_REMOTE_SECONDS is {given!r}; give seconds from 1 to 3600.")
    return seconds


def refuse_credentials(uri: str) -> None:
    """Raise an `AddressError`, which has no part of them, where a URI has credentials in it: it would be logged."""
    scheme, _, rest = uri.partition("://")
    if scheme.lower() not in REMOTE_SCHEMES or not rest:
        return  # such as a web address, which is not opened
    authority = rest.partition("/")[0]
    if re.search(r"(?i)[?&]X-Amz-(Signature|Credential)=", uri):
        what = "is a presigned one"
    elif ("@" in authority and ":" in authority.rpartition("@")[0]) or (
        scheme.lower() in _WITH_BUCKETS and re.search(r"[:@]", authority)
    ):
        what = "has credentials in it"
    else:
        return
    raise AddressError(
        f"the {scheme}:// address {what}, which would be logged. Give {scheme}://BUCKET/KEY, and the credentials by "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
    )


def check_address(uri: str) -> None:
    """Raise an `AddressError` where a URI cannot be opened."""
    refuse_credentials(uri)
    scheme, _, rest = uri.partition("://")
    if scheme not in REMOTE_SCHEMES:
        raise AddressError(_explain_scheme(scheme, uri))
    if not rest.partition("/")[0]:
        what = "bucket" if scheme in _WITH_BUCKETS else "host"
        raise AddressError(f"{uri} names no {what}. Write {scheme}://NAME/….")
    if found := re.search(r"\?(?:.*&)?(endpoint_override|region|scheme|access_key|secret_key|anonymous)=", uri):
        raise AddressError(
            f"options in an address ({found[1]}=…) are not read. Set AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=YES instead."
        )


def _explain_scheme(scheme: str, uri: str) -> str:
    known = ", ".join(f"{name}://" for name in REMOTE_SCHEMES)
    if scheme.lower() in ("http", "https"):
        address = re.sub(r"[?#].*", "", re.sub(r"//[^/]*@", "//", uri))
        return (
            f"{address} is a web address, and is not read here. Download the file, and give its path or an s3:// one."
        )
    if scheme.lower() == "file":
        return f"{uri}: write the path of a local file without file://"
    instead = "s3" if scheme.lower() in ("s3a", "s3n", "s3") else scheme.lower()
    hint = f"Write {instead}://…" if instead in REMOTE_SCHEMES else suggest(scheme, REMOTE_SCHEMES)
    return f"{scheme}:// is not read; a path is, and {known}. {hint}".rstrip()


def open_file_system(uri: str) -> tuple[Any, str]:
    """Return pyarrow's file system of a URI, and the path in it."""
    check_address(uri)
    scheme, _, path = uri.partition("://")
    with require_extra("remote", f"reading {scheme}:// addresses"):
        import pyarrow.fs  # noqa: F401 - alone: what it raises later is no failed import
    state = tuple(os.environ.get(name) for name in _VARIABLES)
    authority = path.partition("/")[0]
    # One for all buckets of a region: pyarrow makes another only when no request is running.
    place = _region(authority, state) if scheme == "s3" else authority
    # A forked process has the parent's connections.
    return _open(scheme, place, state, os.getpid()), path.removesuffix("/")


@functools.lru_cache(maxsize=256)
def _region(bucket: str, _state: tuple[str | None, ...]) -> str:
    from pyarrow import fs

    finalize_s3_at_exit()
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        return region
    return "us-east-1" if _endpoint() else str(fs.resolve_s3_region(bucket))


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


@functools.lru_cache(maxsize=256)
def _open(scheme: str, place: str, _state: tuple[str | None, ...], _pid: int) -> Any:
    from pyarrow import fs

    if scheme != "s3":
        return fs.FileSystem.from_uri(f"{scheme}://{place}")[0]
    seconds = remote_seconds()
    return fs.S3FileSystem(
        region=place,
        endpoint_override=_endpoint(),  # Arrow reads the variable in URIs alone
        anonymous=is_anonymous(),
        allow_delayed_open=True,  # a small file is a single put
        check_directory_existence_before_creation=True,  # deleting a file makes no empty object beside others
        connect_timeout=seconds / 6,
        request_timeout=seconds / 4,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=max(2, round(math.log2(seconds)))),
    )
