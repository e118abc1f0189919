"""The backends that `vertebra bench` times: each makes a network ready, and does the same work with it.

The work is to turn pixels as a decoder gives them, uint8 (N, H, W, 3), into probabilities.
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

# Pixels → probabilities, and what there is to say of it: versions, or the engine that was chosen.
Ready = tuple[Callable[[Pixels], Any], str]


@dataclass(frozen=True)
class Backend:
    """What runs a network."""

    make: Callable[[NetworkFiles, int, int], Ready]  # files, images of one call, threads; for another process
    packages: tuple[str, ...] = ()  # that it needs beside Vertebra's own

    @property
    def is_installed(self) -> bool:
        """Whether its packages can be imported; none is imported for that."""
        return all(importlib.util.find_spec(package) for package in self.packages)


def vertebra(files: NetworkFiles, batch: int, threads: int) -> Ready:
    """`vertebra.load`, with the engine that was measured fastest."""
    from vertebra.runtime.predictor import Predictor

    predictor = Predictor(files.exported, batch=max(2, batch), threads=threads)
    plan = predictor.tune(batch)
    return predictor.probabilities, str(plan)


def torch(
    files: NetworkFiles, batch: int, threads: int, *, channels_last: bool = False, compiled: bool = False
) -> Ready:
    """torch as its documentation has it; compiled means frozen, too."""
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


def onnxruntime(files: NetworkFiles, batch: int, threads: int) -> Ready:
    """ONNX Runtime with all cores in one call."""
    import onnxruntime as library

    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = library.InferenceSession(files.exported, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"image": pixels})[0], f"onnxruntime {library.__version__}"


def mnn(files: NetworkFiles, batch: int, threads: int) -> Ready:
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


def mean_and_std(preprocessing: Preprocessing) -> tuple[list[float], list[float]]:
    """For values from 0 to 255."""
    return [255 * value for value in preprocessing.mean], [255 * value for value in preprocessing.std]


# The first is Vertebra itself, as `vertebra.load` has it.
BACKENDS: Mapping[str, Backend] = {
    "vertebra": Backend(vertebra),
    "torch": Backend(torch, ("torch",)),
    "torch-channels-last": Backend(partial(torch, channels_last=True), ("torch",)),
    "torch-compiled": Backend(partial(torch, channels_last=True, compiled=True), ("torch",)),
    "onnxruntime": Backend(onnxruntime),
    "mnn": Backend(mnn, ("MNN",)),
}
# Engines that Vertebra does not run; bench/latency.py times them.
ELSEWHERE = ("openvino", "ncnn")


def installed(backends: Mapping[str, Backend] = BACKENDS) -> dict[str, Backend]:
    """Those whose packages are installed."""
    return {name: backend for name, backend in backends.items() if backend.is_installed}


def find_backends(names: Sequence[str], backends: Mapping[str, Backend] = BACKENDS) -> dict[str, Backend]:
    """The backends of these names, whose packages must be installed."""
    for name in names:
        if name not in backends:
            if name in ELSEWHERE:
                hint = "The script bench/latency.py in Vertebra's repository times it beside the others."
            else:
                hint = suggest(name, backends) or f"Allowed are {', '.join(backends)}."
            raise UsageError(f"there is no backend {name!r}. {hint}")
        if not backends[name].is_installed:
            packages = " ".join(backends[name].packages)
            raise UsageError(f"the backend {name!r} is not installed. Run: pip install {packages}")
    return {name: backends[name] for name in names}
