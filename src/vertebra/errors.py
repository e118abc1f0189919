"""Errors for people: what was wrong, the value, what is allowed, what to do next.

Every error that Vertebra raises on purpose is a `VertebraError`. The command line prints its message as one line
and exits with `exit_code`: 2 where the call was wrong, 1 where the work failed.
"""

from __future__ import annotations

import difflib
import importlib.util
import operator
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class VertebraError(Exception):
    """Something that the user can understand and act on. It can be pickled, as a pool of processes needs."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[VertebraError], args: tuple[Any, ...]) -> VertebraError:
    """An error as it was, without what its class does when one is made."""
    return kind.__new__(kind, *args)


class UsageError(VertebraError, ValueError):
    """An argument has a value that is not allowed.

    `on_command_line` is what the command line says in place of the text, where that names options and not keywords.
    """

    exit_code = 2

    def __init__(self, text: str, on_command_line: str | None = None) -> None:
        super().__init__(text)
        self.on_command_line = on_command_line


class MissingExtraError(VertebraError, ImportError):
    """A feature needs a package that an extra of Vertebra installs."""

    exit_code = 2

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs packages that are not installed. Run: pip install 'vertebra[{extra}]'")


class BrokenPackageError(VertebraError, ImportError):
    """A package is installed and does not load."""


# The packages of each extra, by the names that are imported; an extra also has those of the extra that it includes.
EXTRAS: dict[str, tuple[str, ...]] = {
    "torch": ("torch", "safetensors", "onnx", "matplotlib"),
    "train": ("torchvision", "sklearn", "tensorboard"),
    "fast": ("MNN",),
    "heif": ("pillow_heif",),
    "parquet": ("pyarrow",),
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
    """Around what imports packages of an extra, at any depth.

    Raises:
        MissingExtraError: a package is not installed. Named is `extra` where that has it, else the one that has it.
        BrokenPackageError: it is installed and does not load; says why.
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
    # A library that is not found is an `OSError` without a number.
    broken = _imported_from(error) if isinstance(error, ImportError) or error.errno is None else None
    if broken is None:
        return None
    return BrokenPackageError(
        f"{feature} needs {broken}, which is installed and does not load ({first_line(error)}). Install it again: "
        f"pip install --force-reinstall {'scikit-learn' if broken == 'sklearn' else broken}"
    )


def require_packages(extra: str, feature: str, *packages: str) -> None:
    """Check, without importing them, that these packages are installed; else a `MissingExtraError`."""
    if not all(map(_is_installed, packages)):
        raise MissingExtraError(feature, extra)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _imported_from(error: BaseException) -> str | None:
    """The package of an extra in whose own code an import failed, or in which an imported name is missing."""
    optional = {package for packages in EXTRAS.values() for package in packages}
    found, trace = (getattr(error, "name", None) or "").partition(".")[0], error.__traceback__
    while trace is not None:
        package = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found = package if package in optional else found
        trace = trace.tb_next
    return found if found in optional else None


class ImageError(VertebraError):
    """An image cannot be read or is not allowed."""


class WeightsError(VertebraError):
    """A weight file cannot be fetched, is damaged, is not safe, or does not fit its network."""


class ExportError(VertebraError):
    """A network could not be exported; there is no new file, and an older one of that name is as it was."""


class InUseError(VertebraError):
    """Another process writes to the same file or folder."""


class VertebraWarning(UserWarning):
    """What was assumed, chosen or ignored, where the work can go on."""


@contextmanager
def capture_warnings() -> Iterator[list[str]]:
    """Around what may `warn`, and still does: a list that has each text once the block has ended."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VertebraWarning)
        yield texts
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    texts += dict.fromkeys(str(warning.message) for warning in caught if issubclass(warning.category, VertebraWarning))


def warn(text: str) -> None:
    """Warn: a line on stderr from the command line, a `VertebraWarning` from Python."""
    warnings.warn(text, VertebraWarning, stacklevel=3)


def require_positive_int(name: str, value: Any) -> int:
    """The positive whole number, also of numpy; a `UsageError` for anything else."""
    if not isinstance(value, bool) and hasattr(value, "__index__") and operator.index(value) >= 1:
        return operator.index(value)
    raise UsageError(f"{name} is {value!r}; it must be a whole number of at least 1.")


def suggest(name: str, known: Iterable[str], count: int = 3) -> str:
    """The hint for a mistyped name: `"Did you mean 'resnet50' or 'resnet18'?"`, or `""` where nothing is near."""
    # Separators are left out of the comparison, so that 'resnet-50' finds 'resnet50'.
    plain = {_plain(candidate): candidate for candidate in known}
    matches = [plain[match] for match in difflib.get_close_matches(_plain(name), plain, n=count, cutoff=0.6)]
    return f"Did you mean {' or '.join(map(repr, matches))}?" if matches else ""


def suggest_path(text: str) -> str:
    """The hint for a mistyped path: what else its folder has, or `""`."""
    path = Path(text)
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    # The suffix, which is right, would make any two names alike.
    names = [name for name in names if suggest(path.stem, [Path(name).stem])]
    return suggest(path.name, names)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def first_line(error: BaseException) -> str:
    """What an error of another package says, its first line without a full stop; its type where it says nothing."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line[:200].rstrip(" .")


def shortened(text: str, length: int = 60) -> str:
    """The text, cut after so many characters."""
    return text if len(text) <= length else f"{text[:length]}…"


def printable(text: str) -> str:
    """The text with control characters written out: a file's name must not reach a terminal as a command to it."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1] for character in text
    )
