"""Schemas of requests and responses for the OpenAPI document; tests validate the responses against them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class ErrorText(BaseModel):
    """The message of an error."""

    message: str


class Problem(BaseModel):
    """An error response."""

    error: ErrorText


class Info(BaseModel):
    """The server itself."""

    version: str
    auth: bool = Field(description="Whether requests need an API key.")
    limits: dict[str, int] = Field(description="images and bytes of a request, pixels of an image.")


class ModelInfo(BaseModel):
    """One model that is served."""

    name: str
    architecture: str
    classes: int
    input_size: int
    engine: str
    precision: str
    threshold: float | None = Field(description="If the best probability is lower, the result is unsure.")
    explain: Literal["activation", "occlusion"]
    metrics: dict[str, Any]
    loaded: str = Field(description="ISO 8601, UTC.")
    default: bool
    error: str | None = Field(description="Why a newer file of it is not served.")


class Models(BaseModel):
    """All models that are served."""

    models: list[ModelInfo]


class Classes(BaseModel):
    """The names of a model's classes, in the order of their indices."""

    classes: list[str]


class Stage(BaseModel):
    """A stage of a network."""

    name: str
    kind: str
    channels: int
    height: int
    width: int
    parameters: int
    macs: int
    layers: int


class Anatomy(BaseModel):
    """The stages of a network; counts are for one image."""

    input: list[int]
    stages: list[Stage]
    parameters: int
    macs: int


class Guess(BaseModel):
    """A class and its probability."""

    model_config = ConfigDict(populate_by_name=True)

    class_: str = Field(alias="class")
    index: int
    probability: float


class ImageTiming(BaseModel):
    """Milliseconds for one image; `inference_ms` is for its whole batch."""

    decode_ms: float
    queue_ms: float
    inference_ms: float
    batch: int


class Timing(BaseModel):
    """Milliseconds from the request's headers to its response."""

    total_ms: float


class ImageResult(BaseModel):
    """The classes of one image, or its error."""

    name: str
    error: str | None
    predictions: list[Guess]
    width: int | None = None
    height: int | None = None
    unsure: bool | None = None
    timing: ImageTiming | None = None


class Results(BaseModel):
    """One result for each image, in the order sent."""

    model: str
    results: list[ImageResult]
    timing: Timing


class EmbeddingResult(BaseModel):
    """The classifier's input features of one image."""

    name: str
    error: str | None
    embedding: list[float]
    width: int | None = None
    height: int | None = None
    timing: ImageTiming | None = None


class Embeddings(BaseModel):
    """One result for each image, in the order sent."""

    model: str
    results: list[EmbeddingResult]
    timing: Timing


class Status(BaseModel):
    """The status of the server."""

    status: str


def _object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", **({"required": list(required)} if required else {}), "properties": properties}


def _body(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


_BINARY = {"type": "string", "format": "binary"}
_IMAGE = _object({"name": {"type": "string"}, "data": {"type": "string", "contentEncoding": "base64"}}, "data")
_IMAGES = {
    "images": {"type": "array", "minItems": 1, "items": _IMAGE},
    "model": {"type": "string"},
    "top": {"type": "integer", "minimum": 1, "maximum": 1000},
}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
BODY = _body(
    {
        "multipart/form-data": _object({"files": {"type": "array", "items": _BINARY}}),
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        "application/json": _object(_IMAGES, "images"),
    }
)
TENSORS = _body(
    {
        "application/json": _object({"id": {"type": "string"}, "inputs": _OBJECTS, "outputs": _OBJECTS}, "inputs"),
        "application/octet-stream": _BINARY,
    }
)


def problems(*statuses: int, results: type[BaseModel] | None = None) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of responses other than success.

    Args:
        statuses: HTTP statuses; 401 and 403 are added.
        results: the response model that is also returned with 422 if no image could be decoded.
    """
    meanings = {
        400: "The request is malformed.",
        404: "There is no such model.",
        408: "The body arrived too slowly.",
        413: "The body is too large.",
        415: "The body's Content-Type is not supported.",
        422: "A parameter or an image is not allowed.",
        500: "The model failed.",
        503: "The queue is full, or the deadline cannot be met; Retry-After says when to try again.",
        401: "The API key is missing or wrong.",
        403: "Pages of that origin, or that host, are not allowed.",
    }
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text}
        for status, text in meanings.items()
        if status in (*statuses, 401, 403)
    }
    if results is not None:
        text = "No image could be read, or a parameter is not allowed."
        found[422] = {"model": Problem | results, "description": text}
    return found
