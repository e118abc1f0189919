"""From a folder of photos to a classifier that says how far to trust it.

`clf = vertebra.train("photos/")`, or `vertebra train photos/ --out RUN`. The names of this package are loaded on first
use: wrong settings are refused before torch is loaded, which takes seconds.
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
    """Import a name on its first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vertebra.train' has no attribute {name!r}")
    with require_extra("train", f"vertebra.train.{name}"):
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All names, also those not loaded yet."""
    return sorted({*globals(), *_EXPORTS})


make_callable(__name__)
