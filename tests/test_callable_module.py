"""Four packages are called as the function of their name, whatever has been imported before."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import vertebra

PACKAGES = ("anatomy", "export", "serve", "train")


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_calls_its_function(name, monkeypatch):
    package = import_module(f"vertebra.{name}")
    assert getattr(vertebra, name) is package
    assert inspect.signature(package) == inspect.signature(getattr(package, name))
    monkeypatch.setattr(package, name, lambda *args, **options: (args, options))
    assert package("x", size=3) == (("x",), {"size": 3})


ORDERS = [
    "import vertebra",
    "from vertebra.NAME import NAME; import vertebra",
    "import vertebra.NAME",
    "import vertebra; vertebra.NAME; from vertebra.NAME import NAME",
    "from vertebra import NAME; import vertebra.NAME",
]
# A process that has imported nothing of ours becomes as many as there are orders: torch is imported once for all.
FORKS = """
import os, sys, traceback
import fastapi, onnx, onnxruntime, torch
assert not any(name.startswith("vertebra") for name in sys.modules)
for order in sys.argv[1:]:
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            exec(order, {})
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"failed: {order}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs os.fork")
@pytest.mark.parametrize(
    "chosen", [ORDERS[1:3], pytest.param(ORDERS[:1] + ORDERS[3:], marks=pytest.mark.slow)], ids=["two", "others"]
)
def test_in_every_order_of_imports(chosen):
    orders = [
        "\n".join(
            f"{order.replace('NAME', name)}\nassert callable(vertebra.{name}) and callable(vertebra.{name}.{name})"
            for name in PACKAGES
        )
        for order in chosen
    ]
    done = subprocess.run([sys.executable, "-c", FORKS, *orders], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_inspect_is_the_name_of_the_command():
    from vertebra.anatomy import take_apart

    assert vertebra.inspect is vertebra.anatomy.inspect is take_apart
    assert repr(vertebra.inspect("resnet18", 64)) == repr(vertebra.anatomy("resnet18", 64))
