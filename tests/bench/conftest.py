"""A network for tests of the backends, and the scripts of bench/."""

import importlib
import sys
from pathlib import Path

import pytest

from vertebra.bench import NetworkFiles


@pytest.fixture(scope="session")
def files(tmp_path_factory, tiny_names):
    """A tiny ResNet-18 for small pictures, exported and as weights; to be read with tiny names."""
    import torch

    from vertebra import create_model
    from vertebra.card import Preprocessing
    from vertebra.export import export

    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    with tiny_names():
        network = create_model("resnet18")
    torch.save(network.state_dict(), folder / "w.pth")
    export(network, folder / "m.onnx", architecture="resnet18", preprocessing=Preprocessing(64, 72))
    return NetworkFiles("resnet18", str(folder / "m.onnx"), str(folder / "w.pth"))


BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def script():
    """Import a script of bench/ by name; nothing of it stays, as they have names like `export` and `ray`."""
    aside = {path.stem: sys.modules.pop(path.stem) for path in BENCH.glob("*.py") if path.stem in sys.modules}
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in set(sys.modules) - before:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.modules.update(aside)
