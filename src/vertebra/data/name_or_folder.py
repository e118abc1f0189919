"""Whether DATA is the name of a public data set or the folder of that name.

A folder without photos, such as that of a run, is no data.
"""

from __future__ import annotations

import os
from pathlib import Path

from vertebra.errors import warn
from vertebra.photo_files import is_folder, is_hidden_or_system, is_photo, skipped_kind

from .named_datasets import NAMES


def is_public_name(text: str, path: Path | None = None) -> bool:
    """Whether a text names a public data set, with nothing at `path` (None: the text as a path) that holds data."""
    place = path or Path(text)
    is_there = os.path.exists(place)  # noqa: PTH110 - that of `Path` may raise
    return text in NAMES and (not is_there or (place.is_dir() and not _holds_data(str(place))))


def warn_which(text: str, public: bool) -> None:
    """Say which was taken, where a folder has the name of a public data set."""
    if text not in NAMES or not Path(text).is_dir():
        return
    if public:
        warn(
            f"{text!r} is taken for the public data set of that name, as the folder {text} holds no photos. "
            f"The folder is written ./{text}"
        )
    else:
        warn(
            f"{text!r} is taken for the folder, not for the public data set of that name, which is read where there is "
            f"no such folder. ./{text} is always the folder."
        )


def _holds_data(folder: str) -> bool:
    """Whether there is a photo in a folder or below it, or what is reported in place of one, such as a raw file."""
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except OSError:
        return True  # reading it says why it cannot be listed
    for entry in entries:
        if is_hidden_or_system(entry):
            found = skipped_kind(entry) is not None
        elif is_folder(entry):
            found = entry.is_symlink() or _holds_data(entry.path)  # links may lead in a circle
        else:
            found = is_photo(entry) or skipped_kind(entry) is not None
        if found:
            return True
    return False
