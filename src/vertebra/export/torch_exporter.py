"""torch's own ONNX exporter, for operations that the tracer does not write: slower, and it needs onnxscript."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import onnx
import torch
from torch import nn

from vertebra.errors import first_line
from vertebra.graph.onnx_builder import UnwritableError


def exported(
    module: nn.Module, size: int, inputs: Sequence[str], outputs: Sequence[str], opset: int
) -> onnx.ModelProto:
    """What `torch.onnx.export` makes of a module that takes uint8 (N, size, size, 3), for any N.

    Raises:
        UnwritableError: onnxscript is not installed, or torch cannot write it either.
    """
    if find_spec("onnxscript") is None:
        raise UnwritableError("torch.onnx.export may know it: pip install onnxscript")
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    try:
        with _silent():
            program: Any = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes={inputs[0]: {0: torch.export.Dim("N")}},
                opset_version=opset,
                verbose=False,
            )
        model: onnx.ModelProto = program.model_proto
    except Exception as error:  # its errors have no common class
        cause = first_line(error.__cause__ or error)
        raise UnwritableError(f"torch.onnx.export cannot write it either ({cause}).") from error
    return model


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the exporter prints and logs of itself."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        noise = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
