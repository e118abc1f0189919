"""Work of which process after process dies, such as of a photo that crashes its decoder: found, left out, given up.

Ray starts a process that has died again and gives it the same work, for ever and without a word. So each attempt keeps
a temporary folder on its machine, which one that dies leaves there for the next to find. When all but one of `DEATHS`
have died, the photos are decoded one at a time first, and the folder says which: that one is left out from then on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from vertebra.errors import VertebraError

DEATHS = 3  # that no single photo explains, after which the work is given up
PHOTOS = 8  # that are left out, with more of which it is given up as well
_NOTE = "decoding"  # file with the name of the photo that is being decoded


class DeadlyWorkError(VertebraError):
    """Work that is given up, as processes die of it."""


class Attempt:
    """One attempt at some photos; `deadly` are the names of those of which processes have died."""

    def __init__(self, folder: Path, left: Sequence[Path]) -> None:
        self.folder = folder  # for files of this attempt
        self._is_careful = len(left) >= DEATHS - 1
        self.deadly = frozenset(filter(None, map(_noted, left)))

    def decode_alone(self, photos: Iterable[tuple[str, Callable[[], object]]]) -> None:
        """Where processes have died: decode photos one at a time, so that one of which this process dies is known.

        Args:
            photos: the name of each and what decodes it; those that are `deadly` are not decoded.
        """
        if not self._is_careful:
            return
        note = self.folder / _NOTE
        for name, decode in photos:
            if name in self.deadly:
                continue
            note.write_bytes(os.fsencode(name))
            try:
                decode()
            except VertebraError:
                continue  # the photo's own error, which its result says
            finally:
                note.unlink()


@contextmanager
def attempted(work: str, name: str) -> Iterator[Attempt]:
    """Inside, this process is known to do this work; if it dies there, the next attempt on this machine knows.

    Args:
        work: what tells this work of this run from others; part of a file's name.
        name: of the photos, for people.

    Raises:
        DeadlyWorkError: processes have died of it, and no single photo explains why.
    """
    prefix = f"vertebra-{work}-"
    left = left_by_the_dead(prefix)
    named = sum(_noted(folder) is not None for folder in left)
    if len(left) - named >= DEATHS or named > PHOTOS:
        _remove(left)
        raise DeadlyWorkError(
            f"{name}: {len(left)} processes have died of these photos: one crashes the decoder, or memory is too "
            "small. Look at: ray logs cluster; leave the photo out, or use fewer actors a node."
        )
    with TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-") as folder:
        try:
            yield Attempt(Path(folder), left)
        except DeadlyWorkError:
            _remove(left)
            raise
    _remove(left)


def died_of(photo: str) -> str:
    """Return what is said of a photo of which a process has died."""
    return f"{photo}: the process that decoded it has died. Leave it out, or convert it with another program."


def left_by_the_dead(prefix: str) -> list[Path]:
    """Return the temporary folders of attempts on this machine whose processes have died."""
    found = []
    for folder in Path(gettempdir()).glob(f"{prefix}*"):
        process = folder.name.removeprefix(prefix).partition("-")[0]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            found.append(folder)
        except (OSError, ValueError):
            continue
    return found


def _noted(folder: Path) -> str | None:
    """Return the name of the photo that an attempt was decoding alone; None if it was not."""
    try:
        return os.fsdecode((folder / _NOTE).read_bytes())
    except OSError:
        return None


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
