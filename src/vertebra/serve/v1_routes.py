"""The /v1 routes, the health probes and the metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

from vertebra import __version__
from vertebra.runtime.engine import EMBEDDING, PROBABILITIES

from . import schemas
from .api_errors import ApiError
from .dispatcher import Dispatcher, ModelReplacedError
from .explain import explain_image
from .job import Job
from .json_body import in_thread_if_large
from .loaded_model import LoadedModel
from .request_images import parse_images
from .responses import embed_response, json_response, predict_response

MAX_TOP = 1000

ModelName = Annotated[str | None, Query(alias="model", description="Name of the model; by default the first one.")]
Deadline = Annotated[
    int | None,
    Header(
        alias="X-Deadline-Ms",
        ge=1,
        le=86_400_000,
        description="Milliseconds after which the client no longer needs the response.",
    ),
]
_OF_MODEL = schemas.problems(404, 422, 503)
_ALL = (400, 404, 408, 413, 415, 422, 500, 503)


def build_router(dispatcher: Dispatcher) -> APIRouter:
    """The routes of one server."""
    router = APIRouter()
    registry, settings = dispatcher.registry, dispatcher.settings

    @router.post(
        "/v1/predict",
        response_model=schemas.Results,
        responses=schemas.problems(*_ALL, results=schemas.Results),
        openapi_extra=schemas.BODY,
        summary="Classify images",
    )
    async def predict(
        request: Request,
        model: ModelName = None,
        top: Annotated[int, Query(ge=1, le=MAX_TOP, description="How many classes.")] = 5,
        deadline_ms: Deadline = None,
    ) -> Response:
        """Classify one or more images. For an image that cannot be decoded, the result has the error."""
        started = time.monotonic()
        loaded, jobs, fields = await _run_images(
            dispatcher, request, model, (PROBABILITIES,), dispatcher.deadlines.compute(deadline_ms)
        )
        top = _parse_int_field(fields, "top", top, MAX_TOP)
        return await in_thread_if_large(100 * top * len(jobs), lambda: predict_response(loaded, jobs, top, started))

    @router.post(
        "/v1/embed",
        response_model=schemas.Embeddings,
        responses=schemas.problems(*_ALL, results=schemas.Embeddings),
        openapi_extra=schemas.BODY,
        summary="Embed images",
    )
    async def embed(request: Request, model: ModelName = None, deadline_ms: Deadline = None) -> Response:
        """The classifier's input features, for one or more images."""
        started = time.monotonic()
        loaded, jobs, _ = await _run_images(
            dispatcher, request, model, (EMBEDDING,), dispatcher.deadlines.compute(deadline_ms)
        )
        return embed_response(loaded, jobs, started)

    @router.post(
        "/v1/explain",
        response_class=Response,
        responses=schemas.problems(*_ALL) | {200: {"content": {"image/png": {}}, "description": "A picture."}},
        openapi_extra=schemas.BODY,
        summary="Draw the heat-map of a class",
    )
    async def explain(
        request: Request,
        model: ModelName = None,
        index: Annotated[
            int | None, Query(ge=0, le=10**6, description="Index of the class; by default the best one.")
        ] = None,
        layer: Annotated[
            Literal["overlay", "heat"], Query(description="The heat-map over the photo, or alone.")
        ] = "overlay",
        deadline_ms: Deadline = None,
    ) -> Response:
        """A heat-map over one image, as a PNG of at most 1024 pixels a side."""
        deadline = dispatcher.deadlines.compute(deadline_ms)
        async with dispatcher.read_body(request, registry.get(model), deadline) as body:
            content = await parse_images(request.headers.get("content-type", ""), body, settings.max_images)
            if len(content.images) != 1:
                raise ApiError(422, f"the request has {len(content.images)} images; send exactly one to explain.")
            name = _parse_text_field(content.fields, "model", model)
            while True:
                explain_with = partial(
                    explain_image, dispatcher, request.receive, content.images[0], registry.get(name), deadline
                )
                try:
                    return await explain_with(index=index, overlay=layer == "overlay")
                except ModelReplacedError:
                    continue  # start again with the newer model

    @router.get("/v1/info", response_model=schemas.Info, summary="The server")
    async def info() -> Response:
        """Version, whether an API key is required, and the limits of a request."""
        limits = {"images": settings.max_images, "bytes": settings.max_bytes, "pixels": settings.max_pixels}
        return json_response({"version": __version__, "auth": settings.api_key is not None, "limits": limits})

    @router.get("/v1/models", response_model=schemas.Models, responses=schemas.problems(503), summary="List the models")
    async def models() -> Response:
        """All models of the server."""
        return json_response({"models": [_model_info(dispatcher, name) for name in registry.models]})

    @router.get("/v1/models/{name}/card", response_model=dict[str, Any], responses=_OF_MODEL, summary="A model's card")
    async def card(name: str) -> Response:
        """The card of the exported file."""
        return Response(registry.get(name).card.to_json(), media_type="application/json")

    @router.get(
        "/v1/models/{name}/classes", response_model=schemas.Classes, responses=_OF_MODEL, summary="A model's classes"
    )
    async def classes(name: str) -> Response:
        """Class names in the order of their indices; numbers if the model has no names."""
        loaded = registry.get(name)
        return json_response({"classes": [loaded.card.class_name(index) for index in range(loaded.classes)]})

    @router.get(
        "/v1/models/{name}/anatomy", response_model=schemas.Anatomy, responses=_OF_MODEL, summary="A model's stages"
    )
    async def anatomy(name: str) -> Response:
        """Output shape, parameters and multiply-accumulates of each stage, read from the file."""
        loaded = registry.get(name)
        if loaded.anatomy is None:
            raise ApiError(503, f"the stages of {loaded.name!r} cannot be read from its file.", {"Retry-After": "60"})
        return json_response(loaded.anatomy)

    @router.get("/healthz", response_model=schemas.Status, summary="Whether the process is up")
    async def healthz() -> Response:
        """Always 200."""
        return json_response({"status": "ok"})

    @router.get(
        "/readyz", response_model=schemas.Status, responses=schemas.problems(503), summary="Whether it can predict"
    )
    async def readyz() -> Response:
        """200 once every model is loaded and warmed up, until the server stops."""
        if dispatcher.is_stopping():
            raise ApiError(503, "the server is stopping.", {"Retry-After": "5"})
        if not registry.is_ready:
            raise ApiError(503, "the models are still being loaded.", {"Retry-After": "1"})
        return json_response({"status": "ready"})

    @router.get("/metrics", response_class=Response, summary="Counters for Prometheus")
    async def metrics() -> Response:
        """Requests, latencies, batches, queues, memory."""
        return Response(dispatcher.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


async def _run_images(
    dispatcher: Dispatcher, request: Request, model: str | None, outputs: tuple[str, ...], deadline: float
) -> tuple[LoadedModel, Sequence[Job], dict[str, Any]]:
    """Run the model on all images of a request."""
    async with dispatcher.read_body(request, dispatcher.registry.get(model), deadline) as body:
        content = await parse_images(request.headers.get("content-type", ""), body, dispatcher.settings.max_images)

        def make_jobs(loaded: LoadedModel) -> list[Job]:
            return [
                Job(partial(loaded.decode, upload.data, upload.name), upload.name, outputs) for upload in content.images
            ]

        name = _parse_text_field(content.fields, "model", model)
        loaded, jobs = await dispatcher.run_jobs(name, make_jobs, request.receive, deadline)
    num_errors = sum(job.error is not None for job in jobs)
    dispatcher.metrics.count_images(loaded.name, len(jobs) - num_errors, num_errors)
    return loaded, jobs, content.fields


def _model_info(dispatcher: Dispatcher, name: str) -> dict[str, Any]:
    served = dispatcher.registry.models[name]
    loaded = dispatcher.registry.get(name)
    card = loaded.card
    return {
        "name": name,
        "architecture": card.architecture,
        "classes": loaded.classes,
        "input_size": card.preprocessing.crop_size,
        "engine": loaded.plan.engine,
        "precision": card.precision,
        "threshold": card.threshold,
        "explain": loaded.explains_by,
        "metrics": card.metrics,
        "loaded": loaded.loaded_at,
        "default": name == dispatcher.registry.default,
        "error": served.error,
    }


def _parse_int_field(fields: dict[str, Any], name: str, default: int, maximum: int) -> int:
    """An integer among the fields of a body, which overrides the query parameter."""
    if name not in fields:
        return default
    value = fields[name]
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise ApiError(422, f"{name} is {str(value)[:60]!r}; it must be an integer from 1 to {maximum}.")
    return value


def _parse_text_field(fields: dict[str, Any], name: str, default: str | None) -> str | None:
    value = fields.get(name, default)
    if value is not None and not isinstance(value, str):
        raise ApiError(422, f"{name} is {str(value)[:60]!r}; it must be a string.")
    return value
