"""Read files of a source: what goes wrong becomes one line that names the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vertebra.storage import FileState, Location, StorageError
from vertebra.storage.errors import storage_error

MAX_PHOTO = 500_000_000  # bytes of one photo that is read as a whole


@contextlib.contextmanager
def reading(location: Location) -> Iterator[None]:
    """Convert what a file system raises in the block to a `StorageError` that names the file."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, str(location), "read") from error


def require_state(location: Location, state: FileState) -> None:
    """Raise a `StorageError` if a file is not as it was listed."""
    now = location.state()
    if now != state:
        what = f"it has {now.size:,} bytes, and had {state.size:,}" if now.size != state.size else "it was written anew"
        raise StorageError(
            f"{location} has changed since it was listed ({what}). Put back what was there, or start a new run with "
            "another --out."
        )
