"""ONNX Runtime, the engine that is always installed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from vertebra.card import Card
from vertebra.pixels import Pixels
from vertebra.protobuf import Span, encode_field, iter_fields, read_content

from .engine import INPUT, OUTPUTS, PROBABILITIES, EngineError, FloatArray, Plan

# Shorter weights are not mapped: they load at once, and the graph needs some of them (sizes, axes) at load time.
_MIN_MAPPED_BYTES = 4096  # bytes
# Fields of ModelProto, GraphProto and TensorProto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_GRAPH, _INITIALIZER, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 7, 5, 9, 13, 14
_EXTERNAL = 1

EXPORT_AGAIN = "Export the network again with: vertebra export NAME|CHECKPOINT --out FILE.onnx"


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU. One session serves all lanes: its `run` may be called from several threads.

    With `plan.fast_start` it is ready in a tenth of the time, but an image takes up to 1.5 times as long (int8: 3
    times): weights are mapped from the file, not copied, and not rearranged for the processor. The file must not be
    written to meanwhile.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, card: Card, plan: Plan) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = plan.threads
        options.inter_op_num_threads = 1
        # Warnings about the graph are of no use to someone who predicts with it; errors are raised anyway.
        options.log_severity_level = 3
        self.lanes = plan.lanes
        try:
            # It takes only paths in UTF-8.
            is_text = not any("\ud800" <= character <= "\udfff" for character in os.fspath(path.resolve()))
            model: str | bytes = os.fspath(path) if is_text else path.read_bytes()
            if plan.fast_start:
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
                options.add_session_config_entry("session.disable_prepacking", "1")
            if plan.fast_start and is_text:
                # Resolved, because links that lead out of the folder are not allowed.
                real = path.resolve()
                options.add_session_config_entry(
                    "session.model_external_initializers_file_folder_path", os.fspath(real.parent)
                )
                model = map_weights(real)
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime has an exception class per status, without a common base class.
            raise _load_error(path, error) from error
        check_interface(path, card, self._session)

    def run(self, batch: Pixels, outputs: Sequence[str] = (PROBABILITIES,), lane: int = 0) -> list[FloatArray]:
        """uint8 (N, H, W, 3) → the named outputs, each float32 (N, …)."""
        return self._session.run(list(outputs), {INPUT: batch})  # type: ignore[no-any-return]


def check_interface(path: Path, card: Card, session: Any) -> None:
    """Raise an `EngineError` if the inputs or outputs of a graph do not match its card."""
    size = card.preprocessing.crop_size
    inputs = session.get_inputs()
    wanted = f"one input '{INPUT}', tensor(uint8) [N, {size}, {size}, 3]"
    shape = inputs[0].shape if inputs else []
    fixed_batch = bool(shape) and isinstance(shape[0], int)
    if (
        len(inputs) != 1
        or inputs[0].name != INPUT
        or inputs[0].type != "tensor(uint8)"
        or list(shape[1:]) != [size, size, 3]
        or fixed_batch
    ):
        found = ", ".join(f"'{item.name}', {item.type} {item.shape}" for item in inputs) or "none"
        raise EngineError(f"{path} takes {found}, and its card promises {wanted}. {EXPORT_AGAIN}")
    found_outputs = {item.name: item.shape for item in session.get_outputs()}
    missing = [name for name in OUTPUTS if name not in found_outputs]
    if missing:
        raise EngineError(
            f"{path} has no output {' and '.join(map(repr, missing))} (it has {', '.join(found_outputs) or 'none'}). "
            f"{EXPORT_AGAIN}"
        )
    count = found_outputs[PROBABILITIES][-1]
    if card.classes is not None and isinstance(count, int) and count != len(card.classes):
        raise EngineError(
            f"{path} gives {count} probabilities, and its card names {len(card.classes)} classes. {EXPORT_AGAIN}"
        )


def _load_error(path: Path, error: Exception) -> EngineError:
    import onnxruntime

    text = " ".join(str(error).split()).rstrip(".")
    lacking = re.search(
        r"No Op registered for (\S+)|error: (\S+?)\(\S+\) is not a registered|implementation for (\S+?)\(", text
    )
    opset = re.search(r"Opset (\d+) is under development", text)
    if lacking or opset:
        what = f"the operator {next(filter(None, lacking.groups()))}" if lacking else f"opset {opset[1]}"  # type: ignore[index]
        return EngineError(
            f"{path} needs {what}, which onnxruntime {onnxruntime.__version__} does not have. "
            "Run: pip install --upgrade onnxruntime"
        )
    reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return EngineError(f"{path} cannot be loaded ({reason}). {EXPORT_AGAIN}")


# --- weights mapped from the file -------------------------------------------------------------------------------------


def map_weights(path: Path) -> bytes:
    """Return a model whose large weights are external data, located in its own file.

    ONNX Runtime copies embedded weights two or three times while it loads them. It maps external data into memory
    instead, and this may be the file that the model itself is read from.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not an ONNX file, or it is cut short.
    """
    with path.open("rb") as file:
        return _rewrite(file, (0, os.fstat(file.fileno()).st_size), path.name, (_GRAPH, _INITIALIZER))


def _rewrite(file: IO[bytes], place: Span, location: str, way: tuple[int, ...]) -> bytes:
    """Rewrite the message at a place; `way`: the fields that lead to the weights."""
    parts = []
    for number, value in iter_fields(file, *place):
        if isinstance(value, tuple):
            if way and number == way[0]:
                value = _rewrite(file, value, location, way[1:])
            elif not way and number == _RAW_DATA and value[1] - value[0] > _MIN_MAPPED_BYTES:
                parts.append(_external_data(location, value))
                continue
            else:
                value = read_content(file, value)
        parts.append(encode_field(number, value))
    return b"".join(parts)


def _external_data(location: str, place: Span) -> bytes:
    entries = {"location": location, "offset": str(place[0]), "length": str(place[1] - place[0])}
    pairs = [encode_field(1, key.encode()) + encode_field(2, text.encode()) for key, text in entries.items()]
    return encode_field(_DATA_LOCATION, _EXTERNAL) + b"".join(encode_field(_EXTERNAL_DATA, pair) for pair in pairs)
