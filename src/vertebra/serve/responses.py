"""JSON responses from finished jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.responses import Response

from vertebra.runtime.engine import EMBEDDING, PROBABILITIES
from vertebra.runtime.prediction import top_classes

from .image_decoding import display_name
from .job import Job
from .loaded_model import LoadedModel


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON response; numpy arrays are allowed."""
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def predict_response(model: LoadedModel, jobs: Sequence[Job], top: int, started: float) -> Response:
    """The response of /v1/predict; 422 if no image could be decoded."""

    def classes(job: Job) -> dict[str, Any]:
        found, unsure = top_classes(model.card, job.values[PROBABILITIES], top)
        return {"predictions": found, "unsure": unsure}

    return _build_response(model, jobs, started, classes, {"predictions": []})


def embed_response(model: LoadedModel, jobs: Sequence[Job], started: float) -> Response:
    """The response of /v1/embed; 422 if no image could be decoded."""
    return _build_response(model, jobs, started, lambda job: {"embedding": job.values[EMBEDDING]}, {"embedding": []})


def _build_response(
    model: LoadedModel, jobs: Sequence[Job], started: float, result_of: Any, no_result: dict[str, Any]
) -> Response:
    results = []
    for job in jobs:
        if job.error is not None:
            results.append({"name": display_name(job.name), "error": job.error, **no_result})
            continue
        timing = {
            "decode_ms": round(1000 * job.decode_seconds, 2),
            "queue_ms": round(1000 * job.queue_seconds, 2),
            "inference_ms": round(1000 * job.inference_seconds, 2),
            "batch": job.batch_size,
        }
        size = {"width": job.width, "height": job.height}
        results.append({"name": display_name(job.name), "error": None, **size, **result_of(job), "timing": timing})
    has_failed = all(job.error is not None for job in jobs)
    total = {"total_ms": round(1000 * (time.monotonic() - started), 2)}
    return json_response({"model": model.name, "results": results, "timing": total}, 422 if has_failed else 200)
