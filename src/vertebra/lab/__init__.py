"""The claims about these networks as experiments that can fail: `vertebra lab run NAME`, `vertebra.lab.run(NAME)`.

Exports are imported on first use: `vertebra lab list` needs no torch to show that torch is missing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vertebra.errors import require_extra

if TYPE_CHECKING:
    from .experiment import Claim as Claim
    from .experiment import Figure as Figure
    from .experiment import Measured as Measured
    from .experiment import Verdict as Verdict
    from .job import Options as Options
    from .registry import entries as entries
    from .result import Result as Result
    from .runs import NotRun as NotRun
    from .runs import Run as Run
    from .runs import run as run
    from .runs import run_all as run_all

_EXPORTS = {
    **dict.fromkeys(("Claim", "Figure", "Measured", "Verdict"), "experiment"),
    "entries": "registry",
    "Result": "result",
    "Options": "job",
    **dict.fromkeys(("NotRun", "Run", "run", "run_all"), "runs"),
}


def __getattr__(name: str) -> Any:
    """Import an export on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vertebra.lab' has no attribute {name!r}")
    with require_extra("train", f"vertebra.lab.{name}"):
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The exports, also those not loaded yet."""
    return sorted(_EXPORTS)
