"""Everything that decides a training run, in one record; a run keeps its own as TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vertebra.errors import UsageError, nearest

METHODS = ("probe", "finetune", "scratch")


@dataclass(frozen=True)
class Settings:
    """What to train on what, and how."""

    data: str
    model: str = "efficientnet_lite0"
    weights: str = "DEFAULT"
    method: str = "probe"
    seed: int = 0
    folds: int = 5  # probe: parts that are held out in turn where the data has no split
    precision: float = 0.95  # share of right answers that the threshold is for
    strict: bool = False  # refuse data with problems

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            hint = nearest(self.method, METHODS) or f"Allowed are {', '.join(METHODS)}."
            raise UsageError(f"there is no method {self.method!r}. {hint}")
        _within("folds", self.folds, 2, 50)
        _within("precision", self.precision, 0.0, 1.0)

    def to_toml(self) -> str:
        """One line a setting; what is None is left out."""
        # Texts, numbers and truth values are written alike in JSON and TOML.
        lines = (f"{name} = {json.dumps(value)}" for name, value in asdict(self).items() if value is not None)
        return "\n".join(lines) + "\n"

    @staticmethod
    def from_mapping(values: Mapping[str, Any], source: str) -> Settings:
        """Check names and types.

        Raises:
            UsageError: a name that is unknown, or a value of another type.
        """
        known = {field.name: field for field in fields(Settings)}
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                hint = nearest(name, known) or f"Settings are {', '.join(known)}."
                raise UsageError(f"{source} has an unknown setting {name!r}. {hint}")
            checked[name] = _typed(name, value, str(known[name].type), source)
        if "data" not in checked:
            raise UsageError(f'{source} does not say what to train on. Add data = "FOLDER".')
        return Settings(**checked)

    @staticmethod
    def from_toml(path: Path) -> Settings:
        """Read what `to_toml` wrote, or what a person did.

        Raises:
            UsageError: the file cannot be read, or holds something else.
        """
        return Settings.from_mapping(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a file, unchecked.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML ({error}).") from error


_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}


def _typed(name: str, value: Any, kind: str, source: str) -> Any:
    allowed: tuple[Any, ...] = tuple(t for part in kind.split(" | ") for t in _TYPES.get(part, ()))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{source}: {name} is {value!r}; it must be of type {kind.removesuffix(' | None')}.")
    return float(value) if "float" in kind else value


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} is {value}; it must be from {low} to {high}.")
