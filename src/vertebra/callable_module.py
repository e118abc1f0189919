"""Packages that are called as the function of their name: `vertebra.export(…)` beside `vertebra.export.Prepared`.

A function of that name in `vertebra/__init__.py` would be replaced: importing a package sets it as an attribute of its
parent. So the module is given a class with a `__call__`:
https://docs.python.org/3/reference/datamodel.html#customizing-module-attribute-access
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """A package `vertebra.NAME` with a function NAME in it, which a call of the package calls."""

    @property
    def _function(self) -> Callable[..., Any]:
        # Looked up when it is called: a package may load its names on first use.
        function: Callable[..., Any] = getattr(self, self.__name__.rpartition(".")[2])
        return function

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the function; its own docstring says what it takes."""
        return self._function(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)


def make_callable(package: str) -> None:
    """Let a package, given by its `__name__`, be called as its function of the same name."""
    sys.modules[package].__class__ = CallableModule
