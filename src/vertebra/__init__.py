"""Vertebra: six classic image-classification networks to read, measure, train and ship.

The names below are loaded when they are first touched, so that `import vertebra` costs milliseconds and works with
the base install. A name whose packages are missing says which extra of Vertebra installs them.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vertebra.errors import VertebraError, needing

if TYPE_CHECKING:
    from vertebra import models as models
    from vertebra.anatomy import anatomy, choose, compare, inspect
    from vertebra.export import export
    from vertebra.loading import load
    from vertebra.models import (
        create_model,
        get_model,
        get_model_weights,
        get_weight,
        is_model,
        list_models,
        list_modules,
        list_pretrained,
        model_entrypoint,
    )
    from vertebra.preprocessing import Preprocessing
    from vertebra.serve import serve
    from vertebra.train import train

__version__ = "0.1.0"

# ONNX Runtime's packages (1.32) write down what they run, below ~/.cache, and send it to their maker. It reads this
# when it is imported; who wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Public name -> (module that has it, extra that installs what the module imports, None where the base install does). A
# module of that very name is exported itself.
_EXPORTS: dict[str, tuple[str, str | None]] = {
    "Preprocessing": ("vertebra.preprocessing", None),
    "anatomy": ("vertebra.anatomy", "torch"),
    "choose": ("vertebra.anatomy", "torch"),
    "compare": ("vertebra.anatomy", "torch"),
    "create_model": ("vertebra.models", "torch"),
    "export": ("vertebra.export", "torch"),
    "get_model": ("vertebra.models", "torch"),
    "get_model_weights": ("vertebra.models", "torch"),
    "get_weight": ("vertebra.models", "torch"),
    "inspect": ("vertebra.anatomy", "torch"),
    "is_model": ("vertebra.models", "torch"),
    "list_models": ("vertebra.models", "torch"),
    "list_modules": ("vertebra.models", "torch"),
    "list_pretrained": ("vertebra.models", "torch"),
    "load": ("vertebra.loading", None),
    "model_entrypoint": ("vertebra.models", "torch"),
    "models": ("vertebra.models", "torch"),
    "serve": ("vertebra.serve", "serve"),
    "train": ("vertebra.train", "train"),
}

__all__ = [
    "Preprocessing",
    "VertebraError",
    "__version__",
    "anatomy",
    "choose",
    "compare",
    "create_model",
    "export",
    "get_model",
    "get_model_weights",
    "get_weight",
    "inspect",
    "is_model",
    "list_models",
    "list_modules",
    "list_pretrained",
    "load",
    "model_entrypoint",
    "models",
    "serve",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name on its first use."""
    if name not in _EXPORTS:
        from vertebra.timm_names import advice

        raise AttributeError(f"module 'vertebra' has no attribute {name!r}{advice(name)}")
    module_name, extra = _EXPORTS[name]
    with needing(extra, f"vertebra.{name}"):
        module = import_module(module_name)
    value = module if module_name == f"vertebra.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """All public names, also those not loaded yet."""
    return sorted({*globals(), *_EXPORTS})
