"""The ASGI application: routes, the page, and the middleware around them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from vertebra import __version__

from . import kserve_routes, v1_routes
from .api_errors import ApiError
from .dispatcher import Dispatcher
from .docs_page import POLICY, render_docs_page
from .middleware import Middleware
from .responses import json_response
from .static_page import StaticPage


def create_app(dispatcher: Dispatcher) -> FastAPI:
    """The application of one server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """Load and watch the models, and sample the event loop's lag, while the application runs."""
        dispatcher.registry.start()
        sampling = asyncio.create_task(dispatcher.deadlines.sample_lag())
        try:
            yield
        finally:
            sampling.cancel()
            await asyncio.to_thread(dispatcher.registry.close)

    page = StaticPage()
    app = FastAPI(
        title="Vertebra",
        version=__version__,
        description='Image classification. Errors are JSON: {"error": {"message": …}}.',
        # FastAPI's pages load scripts from another server; /docs below does not.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.include_router(v1_routes.build_router(dispatcher))
    app.include_router(kserve_routes.build_router(dispatcher))
    # Coroutines, since Starlette runs each plain function in a thread.
    app.exception_handler(ApiError)(_api_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(RequestValidationError)(_validation_error)
    for path in page.files:
        app.add_route(path, page.respond, methods=["GET"], include_in_schema=False)

    async def openapi(request: Request) -> Response:
        prefix = _forwarded_prefix(request)
        return json_response(app.openapi() | ({"servers": [{"url": prefix}]} if prefix else {}))

    async def docs(request: Request) -> Response:
        base = request.base_url
        if request.headers.get("x-forwarded-proto") == "https":  # set by a proxy; it affects only the text of this page
            base = base.replace(scheme="https")
        text = render_docs_page(app.openapi(), str(base).rstrip("/") + _forwarded_prefix(request))
        return Response(text, media_type="text/html", headers={"Content-Security-Policy": POLICY})

    app.add_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
    app.add_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.add_middleware(Middleware, dispatcher=dispatcher, page=frozenset(page.files))
    if dispatcher.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=dispatcher.settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Deadline-Ms"],
            expose_headers=["Retry-After", "X-Class-Index", "X-Class-Name", "X-Method"],
            max_age=600,
        )
    return app


def _forwarded_prefix(request: Request) -> str:
    """The path that a proxy has removed (X-Forwarded-Prefix), or "" if it is not valid; used in the API's docs only."""
    prefix = request.headers.get("x-forwarded-prefix", "").rstrip("/")
    return prefix if re.fullmatch(r"(/[\w.~-]{1,100}){1,10}", prefix, re.ASCII) else ""


async def _api_error(request: Request, error: ApiError) -> Response:
    return error.response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Starlette's errors: no such path, or a method that is not allowed."""
    path, asked = request.scope["path"][:100], request.scope["method"] == "OPTIONS"
    if error.status_code == 405 or (asked and path == "*"):
        given = (error.headers or {}).get("Allow", "GET, POST")
        methods = given.replace("HEAD, ", "").replace(", HEAD", "").replace("GET", "GET, HEAD") + ", OPTIONS"
        if asked:
            return Response(status_code=204, headers={"Allow": methods})
        return ApiError(405, f"{path} takes {methods} alone. See /docs.", {"Allow": methods}).response()
    text = f"there is nothing at {path!r}. See /docs." if error.status_code == 404 else str(error.detail)
    return ApiError(error.status_code, text, error.headers).response()


async def _validation_error(request: Request, error: RequestValidationError) -> Response:
    parts = [f"{entry['loc'][-1]} is {str(entry.get('input'))[:60]!r}: {entry['msg']}" for entry in error.errors()]
    return ApiError(422, f"{'; '.join(parts)}. See /docs.").response()
