"""Errors for people: what was wrong, the value, what is allowed, what to do next.

Every error that Vertebra raises on purpose is a `VertebraError`. The command line prints its message as one line
and exits with `exit_code`: 2 where the call was wrong, 1 where the work failed.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class VertebraError(Exception):
    """Something that the user can understand and act on.

    It can be pickled, whatever its class is made with: one that another process cannot read ends a pool of processes.
    """

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[VertebraError], args: tuple[Any, ...]) -> VertebraError:
    """An error as it was, without what its class does when one is made."""
    return kind.__new__(kind, *args)


class UsageError(VertebraError, ValueError):
    """An argument has a value that is not allowed."""

    exit_code = 2


class MissingExtraError(VertebraError, ImportError):
    """A feature needs a package that an extra of Vertebra installs."""

    exit_code = 2

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed. Run: pip install 'vertebra[{extra}]'")


@contextmanager
def needing(extra: str, feature: str) -> Iterator[None]:
    """Around imports: what is not installed becomes a `MissingExtraError` of this feature."""
    try:
        yield
    except ImportError as error:
        # A module of Vertebra itself that is missing is a fault of Vertebra: no extra would bring it.
        if not isinstance(error, MissingExtraError) and (error.name or "vertebra").startswith("vertebra"):
            raise
        raise MissingExtraError(feature, extra) from error


class ImageError(VertebraError):
    """An image cannot be read or is not allowed."""


class WeightsError(VertebraError):
    """A weight file cannot be fetched, is damaged, is not safe, or does not fit its network."""


class InUseError(VertebraError):
    """Another process writes to the same file or folder."""


class VertebraWarning(UserWarning):
    """What was taken for granted, chosen or passed by, and does not keep the work from being done."""


@contextmanager
def noting() -> Iterator[list[str]]:
    """Around what may `warn`, which is told all the same: a list that has each text once the block has ended."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", VertebraWarning)
        yield texts
    for warning in told:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    texts += dict.fromkeys(str(warning.message) for warning in told if issubclass(warning.category, VertebraWarning))


def warn(text: str) -> None:
    """Tell it: a line on stderr from the command line, a `VertebraWarning` from Python."""
    warnings.warn(text, VertebraWarning, stacklevel=3)


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The hint for a mistyped name: `"Did you mean 'resnet50' or 'resnet18'?"`, or `""` where nothing is near."""
    # Separators are left out of the comparison, so that 'resnet-50' finds 'resnet50'.
    plain = {_plain(candidate): candidate for candidate in known}
    matches = [plain[match] for match in difflib.get_close_matches(_plain(name), plain, n=count, cutoff=0.6)]
    return f"Did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def first_line(error: BaseException) -> str:
    """What an error of another package says, its first line without a full stop; its type where it says nothing."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:200].rstrip(" .")


def printable(text: str) -> str:
    """The text with control characters written out: a file's name must not reach a terminal as a command to it."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
    )
