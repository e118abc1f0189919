"""Skip a module of tests where a package is missing, without importing the package: `needs("ray")`.

`pytest.importorskip` imports it in every process that collects the tests, which for some takes a second.
"""

from importlib.util import find_spec

import pytest


def needs(*packages: str) -> None:
    """Skip the calling module unless all of these can be imported."""
    for name in packages:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed", allow_module_level=True)
