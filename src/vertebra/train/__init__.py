"""From a folder of photos to a classifier that says how far to trust it.

`clf = vertebra.train("photos/")`, or `vertebra train photos/ --out RUN`. The package is itself that function, so that
`vertebra.train` is one thing whether or not something of it has been imported before.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from vertebra.errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError("vertebra.train", "train") from error

from ._classifier import Classifier as Classifier
from ._classifier import PrecisionError as PrecisionError
from ._evaluate import Evaluation as Evaluation
from ._evaluate import evaluate as evaluate
from ._folder import TrainError as TrainError
from ._settings import Settings as Settings
from ._settings import read_toml as read_toml
from ._train import resume as resume
from ._train import train as train


class _CallableModule(ModuleType):
    def __call__(
        self, data: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, **options: Any
    ) -> Classifier:
        return train(data, out, **options)

    __call__.__doc__ = train.__doc__


sys.modules[__name__].__class__ = _CallableModule
