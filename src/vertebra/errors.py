"""Exceptions with messages for users: what was wrong, the value, what is allowed, what to do next.

Every error that Vertebra raises on purpose is a `VertebraError`. The command line prints its message as one line
and exits with `exit_code`: 2 where the call was wrong, 1 where the work failed.
"""

from __future__ import annotations

import importlib.util
import operator
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class VertebraError(Exception):
    """Base class of errors that a user can act on. Instances can be pickled, as process pools require."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[VertebraError], args: tuple[Any, ...]) -> VertebraError:
    """Rebuild a pickled error without calling the `__init__` of its class."""
    return kind.__new__(kind, *args)


class UsageError(VertebraError, ValueError):
    """An argument has a value that is not allowed.

    `on_command_line` replaces the text on the command line, if the text there names options instead of keywords.
    """

    exit_code = 2

    def __init__(self, text: str, on_command_line: str | None = None) -> None:
        super().__init__(text)
        self.on_command_line = on_command_line


class MissingExtraError(VertebraError, ImportError):
    """A package of an extra is not installed."""

    exit_code = 2

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed. Run: pip install 'vertebra[{extra}]'")


class BrokenPackageError(VertebraError, ImportError):
    """A package is installed but cannot be imported."""


# Extra -> its import names; `INCLUDED` has the extra that it includes.
EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "safetensors", "onnx", "matplotlib"),
    "train": ("torchvision", "sklearn", "tensorboard"),
    "fast": ("MNN",),
    "kernels": ("vertebra_kernels",),
    "heif": ("pillow_heif",),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "remote": ("pyarrow",),
    "serve": (
        "fastapi",
        "starlette",
        "pydantic",
        "python_multipart",
        "orjson",
        "uvicorn",
        "httptools",
        "uvloop",
        "prometheus_client",
    ),
}
INCLUDED = {"train": "torch"}


@contextmanager
def require_extra(extra: str | None, feature: str) -> Iterator[None]:
    """Convert import errors in the block to errors that name the extra to install.

    Raises:
        MissingExtraError: a package is not installed. Names `extra` if that contains it, else the one that does.
        BrokenPackageError: a package is installed but cannot be imported.
    """
    try:
        yield
    except (ImportError, OSError) as error:
        problem = import_problem(error, feature, extra)
        if problem is None:
            raise
        raise problem from error


def import_problem(error: BaseException, feature: str, extra: str | None = None) -> VertebraError | None:
    """The error that `require_extra` raises for a failed import; None if no package of an extra is the cause."""
    if isinstance(error, VertebraError) or not isinstance(error, ImportError | OSError):
        return None
    name = getattr(error, "name", None) or ""
    package = name.partition(".")[0]
    if package == "vertebra":  # a bug of Vertebra's
        return None
    owner = next((name for name, packages in EXTRAS.items() if package in packages), None)
    if isinstance(error, ModuleNotFoundError) and owner is not None and not _is_installed(package):
        return MissingExtraError(feature, extra if extra and owner in (extra, INCLUDED.get(extra)) else owner)
    # A shared library that is not found raises an `OSError` without an errno.
    broken = _imported_from(error) if isinstance(error, ImportError) or error.errno is None else None
    if broken is None:
        return None
    return BrokenPackageError(
        f"{feature} needs {broken}, which is installed and does not load ({first_line(error)}). Install it again: "
        f"pip install --force-reinstall {'scikit-learn' if broken == 'sklearn' else broken}"
    )


def require_packages(extra: str, feature: str, *packages: str) -> None:
    """Raise a `MissingExtraError` unless these packages are installed; imports none of them."""
    if not all(map(_is_installed, packages)):
        raise MissingExtraError(feature, extra)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _imported_from(error: BaseException) -> str | None:
    """The optional package whose code failed to import, or that lacks an imported name."""
    optional = {package for packages in EXTRAS.values() for package in packages}
    found, trace = (getattr(error, "name", None) or "").partition(".")[0], error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found = package if package in optional else found
        trace = trace.tb_next
    return found if found in optional else None


class ImageError(VertebraError):
    """An image cannot be decoded, or is not allowed."""


class DataError(VertebraError):
    """A data set or a table cannot be used."""


class WeightsError(VertebraError):
    """A weight file cannot be downloaded, is damaged or unsafe, or does not match its network."""


class ExportError(VertebraError):
    """A network could not be exported; no file was written or changed."""


class InUseError(VertebraError):
    """Another process is writing to the same file or folder."""


class VertebraWarning(UserWarning):
    """An assumption, a choice or an ignored input that does not stop the work."""


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Yield a list that contains each `VertebraWarning` text after the block; the warnings are still shown."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VertebraWarning)
        yield texts
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    texts += dict.fromkeys(str(warning.message) for warning in caught if issubclass(warning.category, VertebraWarning))


def warn(text: str) -> None:
    """Issue a `VertebraWarning`; the command line prints it on stderr."""
    warnings.warn(text, VertebraWarning, stacklevel=3)


def require_positive_int(name: str, value: Any) -> int:
    """Return a positive integer (Python or numpy), or raise a `UsageError`."""
    if not isinstance(value, bool) and hasattr(value, "__index__") and operator.index(value) >= 1:
        return operator.index(value)
    raise UsageError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def suggest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint for a mistyped name: `"Did you mean 'resnet50' or 'resnet18'?"`, or `""`."""
    import difflib

    # Separators are ignored, so that 'resnet-50' finds 'resnet50'.
    plain = {_plain(candidate): candidate for candidate in known}
    matches = [plain[match] for match in difflib.get_close_matches(_plain(name), plain, n=count, cutoff=0.6)]
    return f"Did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def suggest_path(text: str) -> str:
    """A hint for a mistyped path from the names beside it, or beside its first missing folder; or `""`.

    Of a pattern this is its first missing folder; a name with wildcards gets no hint.
    """
    path = Path(text)
    try:
        while not path.parent.exists() and path.parent != path:
            path = path.parent
        if any(wildcard in path.name for wildcard in "*?"):
            return ""
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    # The suffix is left out, since it makes any two names similar.
    names = [name for name in names if suggest(path.stem, [Path(name).stem])]
    return suggest(path.name, names)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def first_line(error: BaseException) -> str:
    """The first line of an error's message without its period, or the error's type if it has none."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:200].rstrip(" .")


def shortened(text: str, length: int = 60) -> str:
    """Truncate a text to `length` characters."""
    return text if len(text) <= length else f"{text[:length]}…"


def printable(text: str) -> str:
    """Escape control characters and line breaks: a name must neither send commands to the terminal nor forge a line."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
