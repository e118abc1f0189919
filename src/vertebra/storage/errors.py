"""What a file system says when it fails → one line for people: the place, what is wrong, what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from vertebra.errors import UsageError, VertebraError, first_line
from vertebra.files import disk_is_full

from .bounded_calls import CallTimeoutError

_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
_SECRETS = (
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}"), "…"),
    (re.compile(r"(//)[^/\s@]+@"), r"\1…@"),
    (re.compile(r"(?i)(X-Amz-[\w-]+|secret_key|access_key|session_token|sig)=[^&\s'\"]+"), r"\1=…"),
)


class StorageError(VertebraError):
    """A file or folder cannot be listed, read or written."""

    def __init__(
        self, message: str, is_missing: bool = False, is_full: bool = False, is_transient: bool = False
    ) -> None:
        super().__init__(message)
        self.is_missing = is_missing  # there is no such file, folder or bucket
        self.is_full = is_full  # no room is left
        self.is_transient = is_transient  # it may work later: a timeout, a cut connection, an overloaded service


class AddressError(StorageError, UsageError):
    """An address that is not read: of an unknown scheme, or with credentials in it."""

    def __init__(self, message: str) -> None:
        StorageError.__init__(self, message)
        self.on_command_line = None


class ShortReadError(OSError):
    """Fewer bytes came than were announced."""


def is_remote_address(text: str) -> bool:
    """Whether a text has a scheme, such as `s3://`."""
    return "://" in text and _REMOTE.match(text) is not None


def redact(text: str) -> str:
    """Remove credentials from a text."""
    for variable in _SECRET_VARIABLES:
        if (value := os.environ.get(variable)) and len(value) > 3:
            text = text.replace(value, "…")
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


@contextlib.contextmanager
def storage_errors(uri: str, action: str) -> Iterator[None]:
    """Convert what a file system raises in the block to a `StorageError`, without the cause, which is not redacted."""
    try:
        yield
    except VertebraError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise storage_error(error, uri, action) from None


def storage_error(error: Exception, uri: str, action: str) -> StorageError:
    """Return the error for `uri` that could not be read, listed or written, which `action` says."""
    if isinstance(error, StorageError):
        return error
    what = f"{uri} cannot be {action}"
    number = getattr(error, "errno", None)
    if disk_is_full(error):
        return StorageError(f"{what}: the disk is full. Make room and run the same command again.", is_full=True)
    found = _remote_error(error, what) if is_remote_address(uri) else _local_error(error, what, uri)
    if found is not None:
        return found
    if isinstance(error, FileNotFoundError) or number == errno.ENOENT:
        return StorageError(f"{what}: there is no such file or folder. Check its name.", is_missing=True)
    reason = os.strerror(number) if isinstance(number, int) and not str(error) else redact(first_line(error))
    return StorageError(f"{what} ({reason}).")


def _local_error(error: Exception, what: str, uri: str) -> StorageError | None:
    number = getattr(error, "errno", None)
    if isinstance(error, IsADirectoryError) or (number == errno.EACCES and Path(uri).is_dir() and os.name == "nt"):
        return StorageError(f"{what}: it is a folder, and a file is needed.")
    if isinstance(error, NotADirectoryError):
        return StorageError(f"{what}: a part of its path is a file, and a folder is needed.", is_missing=True)
    if isinstance(error, PermissionError):
        return StorageError(f"{what}: permission denied. Change its permissions (chmod), or run as its owner.")
    if number == errno.EROFS:
        return StorageError(f"{what}: the file system is read-only. Give another place.")
    if number == errno.ENAMETOOLONG:
        return StorageError(f"{what}: the name is too long. Give a shorter one.")
    if number == errno.ELOOP:
        return StorageError(f"{what}: it is a link to itself.")
    if number in (errno.ESTALE, errno.EIO, errno.ETIMEDOUT):
        return StorageError(f"{what} ({os.strerror(number)}). Check the disk or the network drive.", is_transient=True)
    return None


def _remote_error(error: Exception, what: str) -> StorageError | None:
    text = str(error)
    status = int(found[1]) if (found := re.search(r"HTTP status (\d{3})", text)) else 0
    if isinstance(error, CallTimeoutError):
        return StorageError(
            f"{what}: no answer within {error.seconds:.0f} s. The service or the network is slow or away: try again "
            "later, or allow more with VERTEBRA_REMOTE_SECONDS=120.",
            is_transient=True,
        )
    if isinstance(error, ShortReadError):
        return StorageError(f"{what}: {text}. Try again; if it stays so, copy it anew.", is_transient=True)
    if "NO_SUCH_BUCKET" in text or re.search(r"(?i)bucket\b.*\bnot found", text):
        return StorageError(f"{what}: there is no such bucket. Check its name, region and endpoint.", is_missing=True)
    if "Not a regular file" in text or isinstance(error, IsADirectoryError):
        return StorageError(f"{what}: it is a folder, and a file is needed.")
    if "NETWORK_CONNECTION" in text or "curlCode" in text:
        return _network_error(text, what)
    if any(code in text for code in ("SLOW_DOWN", "SERVICE_UNAVAILABLE", "THROTTL", "INTERNAL_FAILURE")) or (
        status in (429, 500, 502, 503, 504)
    ):
        said = f" ({status})" if status else " (503 SlowDown)" if "SLOW_DOWN" in text else ""
        return StorageError(
            f"{what}: the service is overloaded or down{said}, also after several tries. Try again later, with fewer "
            "processes at once.",
            is_transient=True,
        )
    if status in (301, 307) or "PermanentRedirect" in text or "AuthorizationHeaderMalformed" in text:
        region = re.search(r"located in '([\w-]+)'|expecting '([\w-]+)'", text)
        name = next((group for group in region.groups() if group), "") if region else ""
        return StorageError(
            f"{what}: the bucket is in another region{f', {name}' if name else ''} ({status or 301}). Set AWS_REGION "
            f"to {name or 'its region'}."
        )
    if "TOO_SKEWED" in text or "TooSkewed" in text:
        return StorageError(f"{what}: the clock of this machine is wrong, so requests are refused. Set it.")
    if re.search(r"ACCESS_DENIED|SIGNATURE|INVALID_ACCESS|TOKEN|Token", text) or status in (401, 403):
        return StorageError(f"{what}: {_explain_denied()}")
    if status == 400:
        return StorageError(
            f"{what}: the service refuses the request (400). Check AWS_REGION, and that the credentials are valid."
        )
    if "Empty path component" in text:
        return StorageError(f"{what}: names with // are not supported. Copy it to a name without.")
    if isinstance(error, UnicodeError):
        return StorageError(f"{what}: its name is not valid UTF-8.")
    return None


def _network_error(text: str, what: str) -> StorageError:
    code = int(found[1]) if (found := re.search(r"curlCode: (\d+)", text)) else 0
    endpoint = redact(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "")
    at = f" at {endpoint} (AWS_ENDPOINT_URL)" if endpoint else ""
    if code == 6:
        reason = f"the name of the service{at} is not known. Check it, and the network"
    elif code == 7:
        reason = f"the service{at} refuses connections. Check the address, and that it runs"
    elif code == 28:
        reason = f"the service{at} does not answer in time. Try again later, or check the network"
    elif code in (35, 51, 58, 60, 77):
        reason = f"no secure connection to the service{at} ({redact(text.rpartition('Details: ')[2])[:120]})"
    else:
        reason = f"the connection to the service{at} was cut, also after several tries. Try again later"
    return StorageError(f"{what}: {reason}.", is_transient=code != 60)


def _explain_denied() -> str:
    """Say what of the credentials was used, without them."""
    if is_anonymous():
        return "access is denied (403) without credentials, as AWS_NO_SIGN_REQUEST asks. Unset it to use yours."
    profile = os.environ.get("AWS_PROFILE")
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        used = "those of AWS_ACCESS_KEY_ID are refused"
    elif profile:
        used = f"those of AWS_PROFILE={profile} are refused"
    elif (
        any(
            os.environ.get(name)
            for name in (
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "AWS_SHARED_CREDENTIALS_FILE",
            )
        )
        or Path("~/.aws/credentials").expanduser().exists()
    ):
        used = "those found are refused"
    else:
        return (
            "access is denied (403), and no credentials are set. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE; for a public bucket AWS_NO_SIGN_REQUEST=YES."
        )
    return (
        f"access is denied (403). Of credentials {used}: check that they have not expired and may read, list and write "
        "this bucket."
    )


def is_anonymous() -> bool:
    """Whether requests are not signed, as AWS_NO_SIGN_REQUEST asks."""
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("yes", "true", "1", "on")
