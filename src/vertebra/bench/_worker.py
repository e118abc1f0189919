"""One backend in a process of its own: made ready, then timed whenever it is asked.

All do the same work: pixels as a decoder gives them, uint8 (N, H, W, 3), become probabilities.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vertebra.bench._files import Files
from vertebra.card import Preprocessing
from vertebra.pixels import Pixels
from vertebra.runtime.trial import trial_images

# Pixels → probabilities, and what there is to say of it.
Ready = tuple[Callable[[Pixels], Any], str]
# After a call a library's threads may go on looking for work for a while; the next backend waits until they sleep.
_REST = 0.25


def vertebra(files: Files, batch: int, threads: int) -> Ready:
    """`vertebra.load`, with the engine that was measured fastest."""
    from vertebra.runtime.predictor import Predictor

    network = Predictor(files.exported, batch=max(2, batch), threads=threads)
    plan = network.tune(batch)
    return network.probabilities, str(plan)


def torch(files: Files, batch: int, threads: int, *, channels_last: bool = False, compiled: bool = False) -> Ready:
    """torch as its documentation has it; compiled means frozen, too."""
    import torch as library

    library.set_num_threads(threads)
    network = _network(files)
    mean, std = (library.tensor(values).view(1, 3, 1, 1) for values in _mean_and_std(files.preprocessing))
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


def onnxruntime(files: Files, batch: int, threads: int) -> Ready:
    """ONNX Runtime with all cores in one call."""
    import onnxruntime as library

    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = library.InferenceSession(files.exported, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probabilities"], {"image": pixels})[0], f"onnxruntime {library.__version__}"


def openvino(files: Files, batch: int, threads: int) -> Ready:
    """OpenVINO for latency, in float32."""
    import openvino as library

    core = library.Core()
    model = core.read_model(files.exported)
    size = files.preprocessing.crop_size
    model.reshape([batch, size, size, 3])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(pixels: Pixels) -> Any:
        request.infer([pixels])
        return request.get_tensor("probabilities").data

    return run, f"openvino {library.__version__.partition('-')[0]}"


def mnn(files: Files, batch: int, threads: int) -> Ready:
    """MNN with its default settings."""
    from vertebra.runtime.mnn_engine import convert, quietly_imported

    library = quietly_imported()
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


def ncnn(files: Files, batch: int, threads: int) -> Ready:
    """ncnn with its default settings but in float32; it takes one image at a time."""
    import ncnn as library
    import pnnx
    import torch as maker

    size = files.preprocessing.crop_size
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt"
        pnnx.export(_network(files), os.fspath(path), maker.zeros(1, 3, size, size), fp16=False)
        net = library.Net()
        net.opt.num_threads = threads
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.load_param(os.fspath(path.with_suffix(".ncnn.param")))
        net.load_model(os.fspath(path.with_suffix(".ncnn.bin")))
    mean, std = _mean_and_std(files.preprocessing)
    factors = [1 / value for value in std]

    def run(pixels: Pixels) -> Any:
        logits = []
        for image in pixels:
            entry = library.Mat.from_pixels(image, library.Mat.PixelType.PIXEL_RGB, size, size)
            entry.substract_mean_normalize(mean, factors)
            extractor = net.create_extractor()
            extractor.input("in0", entry)
            logits.append(np.array(extractor.extract("out0")[1]))
        powers = np.exp(logits - np.max(logits, 1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    return run, f"ncnn {library.__version__}"


def _network(files: Files) -> Any:
    from vertebra import create_model

    if files.weights is None:
        raise ValueError("needs a network's name, and this is a file")
    return create_model(files.name, weights=files.weights).eval()


def _mean_and_std(preprocessing: Preprocessing) -> tuple[list[float], list[float]]:
    """For values from 0 to 255."""
    return [255 * value for value in preprocessing.mean], [255 * value for value in preprocessing.std]


MAKERS: dict[str, Callable[[Files, int, int], Ready]] = {
    "vertebra": vertebra,
    "torch": torch,
    "torch-channels-last": lambda *task: torch(*task, channels_last=True),
    "torch-compiled": lambda *task: torch(*task, channels_last=True, compiled=True),
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "mnn": mnn,
    "ncnn": ncnn,
}


def measure(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call, for so long, but of three calls at least; the first, that wakes threads, is not counted."""
    call()
    found: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(found) < 3:
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def main(task: str) -> None:
    """Answer each line of standard input (seconds to measure) with one line of JSON."""
    wanted = json.loads(task)
    # What libraries print must not get between the answers.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        out.write(json.dumps({"vertebra": content}) + "\n")
        out.flush()

    try:
        files, batch = Files(**wanted["files"]), wanted["batch"]
        call, detail = MAKERS[wanted["backend"]](files, batch, wanted["threads"])
        pixels = trial_images(files.preprocessing.crop_size, batch)
        for _ in range(3):
            found = call(pixels)
        time.sleep(_REST)
        # The first numbers of the last image, so that whoever asks sees that all have computed the same.
        answer(detail=detail, sample=[float(value) for value in found[-1][:8]])
        for line in sys.stdin:
            seconds = measure(lambda: call(pixels), float(line))
            time.sleep(_REST)
            answer(seconds=seconds)
    except Exception as error:
        # Whatever a library raises: the other backends are still of interest.
        answer(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])


if __name__ == "__main__":
    main(sys.argv[1])
