"""From finished jobs to JSON."""

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
    """JSON, also of float32 arrays."""
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def predictions(model: LoadedModel, jobs: Sequence[Job], top: int, started: float) -> Response:
    """The answer of /v1/predict; 422 where not one image could be read."""

    def classes(job: Job) -> dict[str, Any]:
        found, unsure = top_classes(model.card, job.values[PROBABILITIES], top)
        return {"predictions": found, "unsure": unsure}

    return _answer(model, jobs, started, classes, {"predictions": []})


def embeddings(model: LoadedModel, jobs: Sequence[Job], started: float) -> Response:
    """The answer of /v1/embed; 422 where not one image could be read."""
    return _answer(model, jobs, started, lambda job: {"embedding": job.values[EMBEDDING]}, {"embedding": []})


def _answer(model: LoadedModel, jobs: Sequence[Job], started: float, values: Any, nothing: dict[str, Any]) -> Response:
    results = []
    for job in jobs:
        if job.error is not None:
            results.append({"name": display_name(job.name), "error": job.error, **nothing})
            continue
        timing = {
            "decode_ms": round(1000 * job.decode_seconds, 2),
            "queue_ms": round(1000 * job.queue_seconds, 2),
            "inference_ms": round(1000 * job.inference_seconds, 2),
            "batch": job.batch_size,
        }
        size = {"width": job.width, "height": job.height}
        results.append({"name": display_name(job.name), "error": None, **size, **values(job), "timing": timing})
    failed = all(job.error is not None for job in jobs)
    total = {"total_ms": round(1000 * (time.monotonic() - started), 2)}
    return json_response({"model": model.name, "results": results, "timing": total}, 422 if failed else 200)
