"""Vertebra: six classic image-classification networks to read, measure, train and ship.

The names below are loaded when they are first touched, so that `import vertebra` costs milliseconds and works with
the base install. A name whose packages are missing says which extra of Vertebra installs them.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vertebra.errors import VertebraError as VertebraError
from vertebra.errors import require_extra

if TYPE_CHECKING:
    from vertebra import lab as lab
    from vertebra import models as models
    from vertebra.anatomy import anatomy as anatomy
    from vertebra.anatomy import choose as choose
    from vertebra.anatomy import compare as compare
    from vertebra.anatomy import inspect as inspect
    from vertebra.cluster.dataset_predictions import predict_dataset as predict_dataset
    from vertebra.explore import explore as explore
    from vertebra.export import export as export
    from vertebra.loading import load as load
    from vertebra.models import create_model as create_model
    from vertebra.models import get_model as get_model
    from vertebra.models import get_model_weights as get_model_weights
    from vertebra.models import get_weight as get_weight
    from vertebra.models import is_model as is_model
    from vertebra.models import list_models as list_models
    from vertebra.models import list_modules as list_modules
    from vertebra.models import list_pretrained as list_pretrained
    from vertebra.models import model_entrypoint as model_entrypoint
    from vertebra.preprocessing import Preprocessing as Preprocessing
    from vertebra.serve import serve as serve
    from vertebra.train import train as train

__version__ = "0.1.0"

# ONNX Runtime's packages (1.32) write down what they run, below ~/.cache, and send it to their maker. It reads this
# when it is imported; who wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Public name -> (module that has it, extra that installs what the module imports, None where the base install does). A
# module of that very name is exported itself.
_EXPORTS: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(("anatomy", "choose", "compare", "inspect"), ("vertebra.anatomy", "torch")),
    **dict.fromkeys(("models", "create_model", "get_model", "get_model_weights"), ("vertebra.models", "torch")),
    **dict.fromkeys(("get_weight", "is_model", "list_models", "list_modules"), ("vertebra.models", "torch")),
    **dict.fromkeys(("list_pretrained", "model_entrypoint"), ("vertebra.models", "torch")),
    "Photo": ("vertebra.runtime.photo", None),
    "Preprocessing": ("vertebra.preprocessing", None),
    "explore": ("vertebra.explore", "torch"),
    "export": ("vertebra.export", "torch"),
    "lab": ("vertebra.lab", "train"),
    "load": ("vertebra.loading", None),
    "predict_dataset": ("vertebra.cluster.dataset_predictions", "ray"),
    "serve": ("vertebra.serve", "serve"),
    "train": ("vertebra.train", "train"),
}

__all__ = ["VertebraError", "__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _EXPORTS:
        from vertebra.timm_names import suggest_replacement

        raise AttributeError(f"module 'vertebra' has no attribute {name!r}{suggest_replacement(name)}")
    module_name, extra = _EXPORTS[name]
    with require_extra(extra, f"vertebra.{name}"):
        module = import_module(module_name)
    value = module if module_name == f"vertebra.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, also those not loaded yet."""
    return sorted({*globals(), *_EXPORTS})
