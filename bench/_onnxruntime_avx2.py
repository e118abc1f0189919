"""A copy of ONNX Runtime that takes the processor for one without AVX-512, to compare kernels with AVX2 alone.

It has no setting for that. Its library asks the processor which registers the system saves (XGETBV) before it takes
AVX-512; in the copy the answer is x87, SSE and AVX. That the copy runs other kernels is seen from the graph that it
optimises: channels lie in blocks of 8 instead of 16.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

_ASK = bytes.fromhex("31c9 0f01d0")  # xor ecx, ecx; xgetbv
_ANSWER = bytes.fromhex("31c9 b007 90")  # xor ecx, ecx; mov al, 7; nop

# Prints whether the 24 channels of MobileNetV2's second block have been filled up to 32.
_BLOCK_SIZE = """
import sys, onnx, onnxruntime
options = onnxruntime.SessionOptions()
options.optimized_model_filepath, options.log_severity_level = sys.argv[2], 3
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shapes = [tuple(i.dims) for i in onnx.load(sys.argv[2]).graph.initializer if len(i.dims) == 4]
print(8 if any(24 in shape[:2] for shape in shapes) else 16)
"""


def copy_without_avx512(folder: Path) -> Path:
    """Copy the package into `folder`, which then goes before others in PYTHONPATH."""
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        sys.exit("ONNX Runtime is not installed. Run: pip install onnxruntime")
    unused = shutil.ignore_patterns("libonnxruntime.so*", "transformers", "tools", "quantization", "__pycache__")
    copy = folder / "onnxruntime"
    shutil.copytree(Path(spec.origin).parent, copy, ignore=unused)
    (library,) = copy.glob("capi/onnxruntime_pybind11_state*.so")
    content = library.read_bytes()
    if _ASK not in content:
        sys.exit(f"{library.name} does not ask for registers in the way known here, so it cannot be held to AVX2.")
    library.write_bytes(content.replace(_ASK, _ANSWER))
    return folder


def block_size(mobilenet_v2: str, scratch: Path, path: Path | None = None) -> int:
    """Channels in a block of ONNX Runtime's convolutions: 16 with AVX-512, 8 with AVX2; `path` has the package."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*([str(path)] if path else []), *sys.path])}
    command = [sys.executable, "-c", _BLOCK_SIZE, mobilenet_v2, str(scratch / "optimised.onnx")]
    return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
