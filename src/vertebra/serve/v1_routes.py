"""The routes under /v1, and those that say how the server is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from vertebra import __version__
from vertebra.pixels import Pixels, fit
from vertebra.runtime.engine import EMBEDDING, FEATURES, PROBABILITIES, FloatArray

from . import saliency as heat
from . import schemas
from .api_errors import ApiError
from .batcher import Job
from .dispatcher import Dispatcher, ModelReplacedError
from .image_decoding import picture, shown
from .json_body import in_thread_if_large
from .loaded_model import LoadedModel
from .prometheus_metrics import CONTENT_TYPE
from .request_images import RequestContent, Upload, parse_images
from .responses import embeddings, json_response, predictions

MAX_TOP = 1000

ModelName = Annotated[str | None, Query(alias="model", description="Which model; the first one where it is not given.")]
Deadline = Annotated[
    int | None,
    Header(alias="X-Deadline-Ms", ge=1, le=86_400_000, description="Milliseconds after which no answer is needed."),
]
_ALL = (400, 404, 408, 413, 415, 422, 500, 503)


def routes(dispatcher: Dispatcher) -> APIRouter:
    """All of them, for one server."""
    router = APIRouter()
    registry = dispatcher.registry

    @router.post(
        "/v1/predict",
        response_model=schemas.Results,
        responses=schemas.problems(*_ALL, without_one=schemas.Results),
        openapi_extra=schemas.BODY,
        summary="Classify images",
    )
    async def predict(
        request: Request,
        model: ModelName = None,
        top: Annotated[int, Query(ge=1, le=MAX_TOP, description="How many classes.")] = 5,
        deadline_ms: Deadline = None,
    ) -> Response:
        """Classify one or more images. One that cannot be read stands with its error beside the others."""
        started = time.monotonic()
        loaded, jobs, fields = await _images(
            dispatcher, request, model, (PROBABILITIES,), dispatcher.deadline(deadline_ms)
        )
        most = _field(fields, "top", top, MAX_TOP)
        return await in_thread_if_large(100 * most * len(jobs), lambda: predictions(loaded, jobs, most, started))

    @router.post(
        "/v1/embed",
        response_model=schemas.Embeddings,
        responses=schemas.problems(*_ALL, without_one=schemas.Embeddings),
        openapi_extra=schemas.BODY,
        summary="Embed images",
    )
    async def embed(request: Request, model: ModelName = None, deadline_ms: Deadline = None) -> Response:
        """The features that the classifier sees, for one or more images."""
        started = time.monotonic()
        loaded, jobs, _ = await _images(dispatcher, request, model, (EMBEDDING,), dispatcher.deadline(deadline_ms))
        return embeddings(loaded, jobs, started)

    @router.post(
        "/v1/explain",
        response_class=Response,
        responses=schemas.problems(*_ALL) | {200: {"content": {"image/png": {}}, "description": "A picture."}},
        openapi_extra=schemas.BODY,
        summary="Show where a class was seen",
    )
    async def explain(
        request: Request,
        model: ModelName = None,
        index: Annotated[int | None, Query(ge=0, le=10**6, description="The class; the best one if not given.")] = None,
        layer: Annotated[Literal["overlay", "heat"], Query(description="On the photo, or alone.")] = "overlay",
        deadline_ms: Deadline = None,
    ) -> Response:
        """A heat-map over one image, as a PNG of at most 1024 pixels a side."""
        deadline = dispatcher.deadline(deadline_ms)
        async with dispatcher.body(request, registry.get(model), deadline) as body:
            content = await _content(dispatcher, request, body)
            if len(content.images) != 1:
                raise ApiError(422, f"there are {len(content.images)} images in the request; send one to explain.")
            name = _field_text(content.fields, "model", model)
            while True:
                try:
                    return await _explained(dispatcher, request, content.images[0], name, index, layer, deadline)
                except ModelReplacedError:
                    continue  # begin again with the newer model: it may want other pixels, and have other classes

    @router.get("/v1/info", response_model=schemas.Info, summary="The server")
    async def info() -> Response:
        """Version, whether a key is needed, and what a request may hold."""
        settings = dispatcher.settings
        limits = {"images": settings.max_images, "bytes": settings.max_bytes, "pixels": settings.max_pixels}
        return json_response({"version": __version__, "auth": settings.api_key is not None, "limits": limits})

    @router.get("/v1/models", response_model=schemas.Models, responses=schemas.problems(503), summary="List the models")
    async def models() -> Response:
        """All models that are served."""
        found = [await asyncio.to_thread(_about, dispatcher, name) for name in registry.models]
        return json_response({"models": found})

    @router.get(
        "/v1/models/{name}/card",
        response_model=dict[str, Any],
        responses=schemas.problems(404, 422, 503),
        summary="A model's card",
    )
    async def card(name: str) -> Response:
        """All that the file says of itself."""
        return Response(registry.get(name).card.to_json(), media_type="application/json")

    @router.get(
        "/v1/models/{name}/classes",
        response_model=schemas.Classes,
        responses=schemas.problems(404, 422, 503),
        summary="A model's classes",
    )
    async def classes(name: str) -> Response:
        """Their names by index; numbers where they have none."""
        loaded = registry.get(name)
        return json_response({"classes": [loaded.card.class_name(index) for index in range(loaded.classes)]})

    @router.get(
        "/v1/models/{name}/anatomy",
        response_model=schemas.Anatomy,
        responses=schemas.problems(404, 422, 503),
        summary="A model's stages",
    )
    async def anatomy(name: str) -> Response:
        """Output, parameters and multiply-accumulates of each stage, read from the file."""
        loaded = registry.get(name)
        found = await asyncio.to_thread(lambda: loaded.anatomy)
        if found is None:
            raise ApiError(503, f"the stages of {loaded.name!r} cannot be told from its file.", {"Retry-After": "60"})
        return json_response(found)

    @router.get("/healthz", response_model=schemas.Status, summary="Whether the process is up")
    async def healthz() -> Response:
        """Always 200."""
        return json_response({"status": "ok"})

    @router.get(
        "/readyz", response_model=schemas.Status, responses=schemas.problems(503), summary="Whether it can predict"
    )
    async def readyz() -> Response:
        """200 once every model is loaded and warm, until the server stops."""
        if dispatcher.stopping():
            raise ApiError(503, "the server is stopping.", {"Retry-After": "5"})
        if not registry.ready:
            raise ApiError(503, "the models are still being loaded.", {"Retry-After": "1"})
        return json_response({"status": "ready"})

    @router.get("/metrics", response_class=Response, summary="Counters for Prometheus")
    async def metrics() -> Response:
        """Requests, latencies, batches, queues, memory."""
        return Response(dispatcher.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return router


async def _images(
    dispatcher: Dispatcher, request: Request, model: str | None, outputs: tuple[str, ...], deadline: float
) -> tuple[LoadedModel, Sequence[Job], dict[str, Any]]:
    """Have all images of a request done."""
    async with dispatcher.body(request, dispatcher.registry.get(model), deadline) as body:
        content = await _content(dispatcher, request, body)

        def make(loaded: LoadedModel) -> list[Job]:
            return [Job(upload.data, upload.name, outputs) for upload in content.images]

        name = _field_text(content.fields, "model", model)
        loaded, jobs = await dispatcher.run(name, make, request.receive, deadline)
    bad = sum(job.error is not None for job in jobs)
    dispatcher.metrics.images(loaded.name, len(jobs) - bad, bad)
    return loaded, jobs, content.fields


async def _explained(
    dispatcher: Dispatcher,
    request: Request,
    upload: Upload,
    name: str | None,
    index: int | None,
    layer: str,
    deadline: float,
) -> Response:
    """A heat-map, by one version of a model from the photo to the picture.

    Raises:
        ModelReplacedError: it has been replaced meanwhile.
    """

    def decode(loaded: LoadedModel) -> list[Job]:
        return [Job(lambda: _opened(dispatcher, loaded, upload.data, upload.name), upload.name)]

    loaded, (job,) = await dispatcher.run(name, decode, request.receive, deadline)
    if job.error is not None:
        raise ApiError(422, job.error)
    if index is not None and index >= loaded.classes:
        raise ApiError(422, f"index is {index}; {loaded.name!r} has the classes 0 to {loaded.classes - 1}.")
    photo, box, pixels = job.result
    method = await asyncio.to_thread(lambda: loaded.explains_by)
    outputs = (PROBABILITIES, FEATURES) if method == "activation" else (PROBABILITIES,)
    jobs = [Job(pixels, outputs=outputs)]
    _, (job,) = await dispatcher.run(loaded.name, lambda _: jobs, request.receive, deadline, only=loaded)
    whole = job.values[PROBABILITIES]
    best = int(whole.argmax()) if index is None else index
    if method == "activation" and loaded.classifier is not None:
        found = loaded.classifier.activation(job.values[FEATURES], best)
    else:
        found = await _by_covering(dispatcher, request, loaded, pixels, whole, best, deadline)

    def drawn() -> bytes:
        return heat.draw(found, photo, box, overlay=layer == "overlay")

    _, (job,) = await dispatcher.run(loaded.name, lambda _: [Job(drawn)], request.receive, deadline)
    headers = heat.summary(method, best, loaded.card.class_name(best))
    return Response(job.result, media_type="image/png", headers=headers)


async def _by_covering(
    dispatcher: Dispatcher,
    request: Request,
    model: LoadedModel,
    pixels: Pixels,
    whole: FloatArray,
    index: int,
    deadline: float,
) -> heat.Map:
    """What the class loses at each place; a few at a time, so that other requests come in between."""
    parts = heat.covered(pixels)
    some = max(1, min(16, dispatcher.settings.queue // 2))
    values: list[float] = []
    for start in range(0, len(parts), some):
        jobs = [Job(part) for part in parts[start : start + some]]
        await dispatcher.run(model.name, lambda _, jobs=jobs: jobs, request.receive, deadline, only=model)  # type: ignore[misc]
        values += (float(job.values[PROBABILITIES][index]) for job in jobs)
    return heat.losses(float(whole[index]), values)


async def _content(dispatcher: Dispatcher, request: Request, body: bytes) -> RequestContent:
    return await parse_images(request.headers.get("content-type", ""), body, dispatcher.settings.max_images)


def _opened(dispatcher: Dispatcher, model: LoadedModel, data: bytes, name: str) -> Any:
    """The photo in a handy size, the box of what the network sees of it, and what it sees."""
    preprocessing = model.card.preprocessing
    photo = picture(data, shown(name), dispatcher.settings.max_pixels, preprocessing.decoding)
    box = heat.crop_box(photo.height, photo.width, preprocessing)
    return heat.shrunk(photo), box, fit(photo, preprocessing)


def _about(dispatcher: Dispatcher, name: str) -> dict[str, Any]:
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
        "loaded": loaded.since,
        "default": name == dispatcher.registry.default,
        "error": served.error,
    }


def _field(fields: dict[str, Any], name: str, default: int, most: int) -> int:
    """A number among the fields of a body, which goes before that of the address."""
    if name not in fields:
        return default
    value = fields[name]
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ApiError(422, f"{name} is {str(value)[:60]!r}; it must be a whole number from 1 to {most}.")
    return value


def _field_text(fields: dict[str, Any], name: str, default: str | None) -> str | None:
    value = fields.get(name, default)
    if value is not None and not isinstance(value, str):
        raise ApiError(422, f"{name} is {str(value)[:60]!r}; it must be a text.")
    return value
