"""The KServe v2 inference protocol over HTTP, for Triton's and KServe's clients.

https://github.com/kserve/open-inference-protocol, with Triton's extensions for binary tensors and classification:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request
from starlette.responses import Response

from vertebra import __version__
from vertebra.pixels import Pixels
from vertebra.runtime.engine import INPUT, OUTPUTS, PROBABILITIES, FloatArray

from . import schemas
from .api_errors import ApiError
from .dispatcher import Dispatcher
from .job import DecodedImage, Job
from .json_body import Data, encode_numbers, in_thread_if_large, parse_json, parse_uint8
from .loaded_model import LoadedModel
from .v1_routes import Deadline

HEADER_LENGTH = "Inference-Header-Content-Length"
_OF_MODEL = schemas.problems(404, 422, 503)
_ALL = schemas.problems(400, 404, 408, 413, 415, 422, 500, 503)


def build_router(dispatcher: Dispatcher) -> APIRouter:
    """The /v2 routes of one server."""
    router = APIRouter(prefix="/v2")
    registry = dispatcher.registry

    @router.get("/health/live", summary="KServe: whether the process is up")
    async def live() -> dict[str, Any]:
        """Always 200."""
        return {"live": True}

    @router.get("/health/ready", responses=schemas.problems(503), summary="KServe: whether it can predict")
    async def ready() -> dict[str, Any]:
        """200 once every model is loaded and warmed up."""
        if not registry.is_ready or dispatcher.is_stopping():
            raise ApiError(503, "the models are not ready.", {"Retry-After": "1"})
        return {"ready": True}

    @router.get("", summary="KServe: the server")
    async def server() -> dict[str, Any]:
        """The server's name, version and extensions."""
        return {"name": "vertebra", "version": __version__, "extensions": ["binary_tensor_data", "classification"]}

    @router.get("/models/{name}", responses=_OF_MODEL, summary="KServe: a model's tensors")
    async def metadata(name: str) -> dict[str, Any]:
        """Names, types and shapes of the inputs and outputs."""
        loaded = registry.get(name)
        size = loaded.card.preprocessing.crop_size
        shapes = {"probabilities": [-1, loaded.classes], "embedding": [-1, -1], "features": [-1, -1, -1, -1]}
        return {
            "name": loaded.name,
            "versions": ["1"],
            "platform": "vertebra_onnx",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
            "outputs": [{"name": output, "datatype": "FP32", "shape": shapes[output]} for output in OUTPUTS],
        }

    @router.get("/models/{name}/ready", responses=_OF_MODEL, summary="KServe: whether a model can predict")
    async def model_ready(name: str) -> dict[str, Any]:
        """200 if the model is loaded."""
        return {"name": registry.get(name).name, "ready": True}

    @router.post(
        "/models/{name}/infer",
        response_model=dict[str, Any],
        responses=_ALL,
        openapi_extra=schemas.TENSORS,
        summary="KServe: run a model",
    )
    async def infer(name: str, request: Request, deadline_ms: Deadline = None) -> Response:
        """Run the network on preprocessed pixels; the outputs are JSON or binary."""
        deadline = dispatcher.deadlines.compute(deadline_ms)
        async with dispatcher.read_body(request, registry.get(name), deadline) as body:
            length = request.headers.get(HEADER_LENGTH)
            model, limit = registry.get(name), dispatcher.settings.max_images
            document, pixels = await in_thread_if_large(len(body), lambda: _parse_request(body, length, model, limit))
            requested = _parse_requested_outputs(document)

            def make_jobs(loaded: LoadedModel) -> list[Job]:
                if pixels.shape[1] != loaded.card.preprocessing.crop_size:
                    raise ApiError(
                        422, "the model has just been replaced by one with another input size. Send the request again."
                    )
                return [Job(partial(DecodedImage, row), outputs=tuple(requested)) for row in pixels]

            loaded, jobs = await dispatcher.run_jobs(name, make_jobs, request.receive, deadline)
        dispatcher.metrics.count_images(loaded.name, len(jobs), 0)
        values = sum(value.size for job in jobs for value in job.values.values())
        return await in_thread_if_large(values, lambda: _build_response(loaded, document, requested, jobs))

    return router


def _parse_request(body: bytes, header_length: str | None, model: LoadedModel, limit: int) -> tuple[Any, Pixels]:
    """The JSON object that a body starts with, and the pixels in it or after it."""
    length = len(body)
    if header_length is not None:
        if not re.fullmatch("[0-9]{1,12}", header_length) or int(header_length) > len(body):
            raise ApiError(400, f"{HEADER_LENGTH} is {header_length[:20]!r}, and the body has {len(body)} bytes.")
        length = int(header_length)
    document = parse_json(body[:length], 1)
    return document, _parse_pixels(document, body[length:], model, limit)


def _parse_pixels(document: dict[str, Any], rest: bytes, model: LoadedModel, limit: int) -> Pixels:
    """The input tensor, uint8 (N, H, W, 3)."""
    size = model.card.preprocessing.crop_size
    wanted = f"one input {{'name': '{INPUT}', 'datatype': 'UINT8', 'shape': [N, {size}, {size}, 3]}}"
    inputs = document.get("inputs")
    entry = inputs[0] if isinstance(inputs, list) and len(inputs) == 1 else None
    if not isinstance(entry, dict) or entry.get("name") != INPUT or entry.get("datatype") != "UINT8":
        raise ApiError(422, f"the model {model.name!r} takes {wanted}.")
    shape = entry.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(value) is int for value in shape)
        or shape[1:] != [size, size, 3]
        or shape[0] < 1
    ):
        raise ApiError(422, f"the shape is {str(shape)[:60]}; the model {model.name!r} takes {wanted}.")
    if shape[0] > limit:
        raise ApiError(422, f"the request has {shape[0]} images; at most {limit} are allowed. Split it into several.")
    count = math.prod(shape)
    parameters = entry.get("parameters")
    binary = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if binary is not None:
        if type(binary) is not int or binary != count:
            raise ApiError(
                422,
                f"binary_data_size is {repr(binary)[:60]}; for the shape {shape} it must be the integer {count}.",
            )
        if len(rest) != count:
            raise ApiError(422, f"binary_data_size is {count}, and {len(rest)} bytes follow the JSON.")
        if "data" in entry:
            raise ApiError(422, "the tensor has both data and a binary_data_size; send one of them.")
        return np.frombuffer(rest, np.uint8).reshape(shape)
    if rest:
        raise ApiError(422, f"{len(rest)} bytes follow the JSON, and the tensor has no binary_data_size.")
    data = entry.get("data")
    try:
        if isinstance(data, Data) and not data.is_string:
            return parse_uint8(data, shape)
    except (ValueError, TypeError):
        pass
    raise ApiError(
        422, f"the tensor's data must be {count} integers from 0 to 255, flat or nested as its shape {shape}."
    )


@dataclass(frozen=True)
class RequestedOutput:
    """How one output is returned."""

    is_binary: bool
    classification: int = 0  # number of best classes to return instead of values; 0: all values


def _parse_requested_outputs(document: dict[str, Any]) -> dict[str, RequestedOutput]:
    """The outputs that a request asks for, by name; all if it names none."""
    parameters = document.get("parameters")
    is_binary = bool(parameters.get("binary_data_output")) if isinstance(parameters, dict) else False
    outputs = document.get("outputs")
    if outputs is None or outputs == []:
        return dict.fromkeys(OUTPUTS, RequestedOutput(is_binary))
    found = {}
    for entry in outputs if isinstance(outputs, list) else [outputs]:
        name = entry.get("name") if isinstance(entry, dict) else None
        if name not in OUTPUTS:
            raise ApiError(422, f"there is no output {str(name)[:60]!r}; there are {', '.join(OUTPUTS)}.")
        given = entry.get("parameters")
        given = given if isinstance(given, dict) else {}
        found[str(name)] = RequestedOutput(
            bool(given.get("binary_data", is_binary)), _parse_classification(str(name), given.get("classification"))
        )
    return found


def _parse_classification(output: str, given: Any) -> int:
    """https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md"""
    if given is None:
        return 0
    if type(given) is not int or given < 1:
        raise ApiError(422, f"classification is {repr(given)[:60]}; it must be an integer, 1 or more.")
    if output != PROBABILITIES:
        raise ApiError(422, f"classification is only supported for the output {PROBABILITIES!r}, not for {output!r}.")
    return given


def _format_best_classes(model: LoadedModel, probabilities: FloatArray, count: int) -> list[list[bytes]]:
    """(N, K) → the best classes of each image as `0.912345:3:cat`, or `0.912345:3` without names."""
    found = []
    for row in probabilities:
        best = np.argsort(-row, kind="stable")[:count].tolist()
        names = [f":{model.card.class_name(index)}" if model.card.classes else "" for index in best]
        found.append([f"{row[index]:.6f}:{index}{name}".encode() for index, name in zip(best, names, strict=True)])
    return found


def _build_response(
    model: LoadedModel, document: dict[str, Any], requested: dict[str, RequestedOutput], jobs: Sequence[Job]
) -> Response:
    outputs, tail = [], []
    for name, wanted in requested.items():
        value = np.stack([job.values[name] for job in jobs])
        entry: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(value.shape)}
        if wanted.classification:
            rows = _format_best_classes(model, value, wanted.classification)
            texts = [text for row in rows for text in row]
            entry |= {"datatype": "BYTES", "shape": [len(rows), len(rows[0])]}
            content = b"".join(struct.pack("<I", len(text)) + text for text in texts)
            data = orjson.dumps([text.decode() for text in texts])
        else:
            content = value.astype("<f4").tobytes() if wanted.is_binary else b""
            data = b"" if wanted.is_binary else encode_numbers(value.ravel())
        if wanted.is_binary:
            entry["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
            outputs.append(orjson.dumps(entry))
        else:
            outputs.append(b'%s,"data":%s}' % (orjson.dumps(entry)[:-1], data))
    answer: dict[str, Any] = {"model_name": model.name, "model_version": "1"}
    if isinstance(document.get("id"), str):
        answer["id"] = document["id"]
    head = b'%s,"outputs":[%s]}' % (orjson.dumps(answer)[:-1], b",".join(outputs))
    if not tail:
        return Response(head, media_type="application/json")
    headers = {HEADER_LENGTH: str(len(head))}
    return Response(b"".join([head, *tail]), media_type="application/octet-stream", headers=headers)
