"""The backends that `vertebra bench` times. Each loads a network and computes probabilities from decoded pixels.

Pixels are uint8 (N, H, W, 3).
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.card import Preprocessing
from vertebra.errors import UsageError, suggest
from vertebra.pixels import Pixels

from .network_files import NetworkFiles

# Pixels → probabilities, and a note: the version, or the chosen engine.
PreparedBackend = tuple[Callable[[Pixels], Any], str]


@dataclass(frozen=True)
class Backend:
    """Software that runs a network."""

    make: Callable[[NetworkFiles, int, int], PreparedBackend]  # files, batch size, threads; called in another process
    packages: tuple[str, ...] = ()  # that it needs besides Vertebra's dependencies

    @property
    def is_installed(self) -> bool:
        """Whether its packages are installed, without importing them."""
        return all(importlib.util.find_spec(package) for package in self.packages)


def vertebra(files: NetworkFiles, batch: int, threads: int) -> PreparedBackend:
    """`vertebra.load`, with the engine that is fastest here."""
    from vertebra.runtime.predictor import Predictor

    predictor = Predictor(files.exported, batch=max(2, batch), threads=threads)
    plan = predictor.tune(batch)
    return predictor.probabilities, str(plan)


def torch(
    files: NetworkFiles, batch: int, threads: int, *, channels_last: bool = False, compiled: bool = False
) -> PreparedBackend:
    """torch as its documentation recommends; compiled networks are also frozen."""
    import torch as library

    library.set_num_threads(threads)
    network = files.network()
    mean, std = (library.tensor(values).view(1, 3, 1, 1) for values in mean_and_std(files.preprocessing))
    form = library.channels_last if channels_last else library.contiguous_format
    network = network.to(memory_format=form)
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True

    def forward(pixels: Any) -> Any:
        images = (pixels.permute(0, 3, 1, 2).to(library.float32, memory_format=form) - mean) / std
        return network(images).softmax(1)

    call = library.compile(forward) if compiled else forward

    def run(pixels: Pixels) -> Any:
        with library.inference_mode():
            return call(library.from_numpy(pixels)).numpy()

    return run, f"torch {library.__version__}"


def onnxruntime(files: NetworkFiles, batch: int, threads: int) -> PreparedBackend:
    """ONNX Runtime with all threads in one call."""
    import onnxruntime as library

    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = library.InferenceSession(files.exported, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"image": pixels})[0], f"onnxruntime {library.__version__}"


def mnn(files: NetworkFiles, batch: int, threads: int) -> PreparedBackend:
    """MNN with its default settings."""
    from vertebra.runtime.mnn_engine import convert, import_mnn

    library = import_mnn()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "network.mnn"
        convert(Path(files.exported), target)
        interpreter = library.Interpreter(os.fspath(target))
    session = interpreter.createSession({"backend": "CPU", "numThread": threads})
    entry = interpreter.getSessionInput(session, "image")
    as_is = library.Tensor_DimensionType_Caffe

    def run(pixels: Pixels) -> Any:
        if tuple(entry.getShape()) != pixels.shape:
            interpreter.resizeTensor(entry, pixels.shape)
            interpreter.resizeSession(session)
        entry.copyFrom(library.Tensor(pixels.shape, library.Halide_Type_Uint8, pixels, as_is))
        interpreter.runSession(session)
        output = interpreter.getSessionOutput(session, "probabilities")
        result = np.empty(output.getShape(), np.float32)
        host = library.Tensor(result.shape, library.Halide_Type_Float, result, as_is)
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData(), np.float32).reshape(result.shape)

    return run, f"MNN {library.version()}"


def kernels(files: NetworkFiles, batch: int, threads: int) -> PreparedBackend:
    """Vertebra's fused kernels with all threads in one call; an EngineError for networks that they do not know."""
    from vertebra.card import read_card
    from vertebra.runtime.engine import Plan, engine_version
    from vertebra.runtime.engine_runner import open_engine

    path, plan = Path(files.exported), Plan("kernels", threads=threads, micro_batch=batch)
    engine = open_engine(path, read_card(path), plan)
    return lambda pixels: engine.run(pixels)[0], engine_version(plan).partition(",")[0]


def mean_and_std(preprocessing: Preprocessing) -> tuple[list[float], list[float]]:
    """Mean and standard deviation for values from 0 to 255."""
    return [255 * value for value in preprocessing.mean], [255 * value for value in preprocessing.std]


# The first is Vertebra itself.
BACKENDS: Mapping[str, Backend] = {
    "vertebra": Backend(vertebra),
    "torch": Backend(torch, ("torch",)),
    "torch-channels-last": Backend(partial(torch, channels_last=True), ("torch",)),
    "torch-compiled": Backend(partial(torch, channels_last=True, compiled=True), ("torch",)),
    "onnxruntime": Backend(onnxruntime),
    "mnn": Backend(mnn, ("MNN",)),
    "kernels": Backend(kernels, ("vertebra_kernels",)),
}
# Engines that only bench/latency.py times.
SCRIPT_ONLY = ("openvino", "ncnn")


def installed_backends(backends: Mapping[str, Backend] = BACKENDS) -> dict[str, Backend]:
    """The backends whose packages are installed."""
    return {name: backend for name, backend in backends.items() if backend.is_installed}


def find_backends(names: Sequence[str], backends: Mapping[str, Backend] = BACKENDS) -> dict[str, Backend]:
    """The backends of these names; raises a UsageError if one is unknown or not installed."""
    for name in names:
        if name not in backends:
            if name in SCRIPT_ONLY:
                hint = "The script bench/latency.py in Vertebra's repository times it."
            else:
                hint = suggest(name, backends) or f"Allowed are {', '.join(backends)}."
            raise UsageError(f"there is no backend {name!r}. {hint}")
        if not backends[name].is_installed:
            packages = " ".join(backends[name].packages)
            raise UsageError(f"the backend {name!r} is not installed. Run: pip install {packages}")
    return {name: backends[name] for name in names}
