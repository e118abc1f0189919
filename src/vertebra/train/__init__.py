"""Train a classifier on a folder of photos, and measure it.

`clf = vertebra.train("photos/")`, or `vertebra train photos/ --out RUN`. Exports are imported on
first use, so that invalid settings are rejected before torch is imported, which takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vertebra.callable_module import make_callable
from vertebra.errors import require_extra

if TYPE_CHECKING:
    from .evaluate_model import Evaluation as Evaluation
    from .evaluate_model import evaluate as evaluate
    from .run_folder import TrainError as TrainError
    from .settings_file import read_toml as read_toml
    from .train_settings import Settings as Settings
    from .trained_classifier import Classifier as Classifier
    from .trained_classifier import PrecisionError as PrecisionError
    from .training import resume as resume
    from .training import train as train

_EXPORTS = {
    "Classifier": "trained_classifier",
    "Evaluation": "evaluate_model",
    "PrecisionError": "trained_classifier",
    "Settings": "train_settings",
    "TrainError": "run_folder",
    "evaluate": "evaluate_model",
    "read_toml": "settings_file",
    "resume": "training",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Import an export on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vertebra.train' has no attribute {name!r}")
    with require_extra("train", f"vertebra.train.{name}"):
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all names, including exports that are not imported yet."""
    return sorted({*globals(), *_EXPORTS})


make_callable(__name__)
