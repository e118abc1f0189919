"""The ASGI application: routes, the page, and the guard around them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from vertebra import __version__

from . import kserve_routes, v1_routes
from .api_errors import UNEXPECTED, ApiError, error_body
from .dispatcher import Dispatcher
from .docs_page import POLICY, docs_page
from .middleware import Middleware
from .responses import json_response
from .static_page import StaticPage


def create_app(dispatcher: Dispatcher, page: StaticPage | None = None) -> ASGIApp:
    """The application of one server."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        """What runs beside the requests: the loading and watching of models, and the sampling of the loop's lag."""
        dispatcher.registry.start()
        sampling = asyncio.create_task(dispatcher.admission.lag.sample())
        try:
            yield
        finally:
            sampling.cancel()
            await asyncio.to_thread(dispatcher.registry.close)

    page = page or StaticPage()
    app = FastAPI(
        title="Vertebra",
        version=__version__,
        description='Image classification. Errors are JSON: {"error": {"message": …}}.',
        # Its pages load their scripts from another server; /docs below does not.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.include_router(v1_routes.routes(dispatcher))
    app.include_router(kserve_routes.routes(dispatcher))
    # Coroutines: functions would each be handed to a thread.
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)
    for path in page.files:
        app.add_route(path, page.answer, methods=["GET"], include_in_schema=False)

    async def openapi(request: Request) -> Response:
        prefix = _prefix(request)
        return json_response(app.openapi() | ({"servers": [{"url": prefix}]} if prefix else {}))

    async def docs(request: Request) -> Response:
        base = request.base_url
        if request.headers.get("x-forwarded-proto") == "https":  # the proxy's; it changes the text of this page alone
            base = base.replace(scheme="https")
        text = docs_page(app.openapi(), str(base).rstrip("/") + _prefix(request))
        return Response(text, media_type="text/html", headers={"Content-Security-Policy": POLICY})

    app.add_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
    app.add_route("/docs", docs, methods=["GET"], include_in_schema=False)
    guarded: ASGIApp = Middleware(app, dispatcher.admission, frozenset(page.files))
    if dispatcher.settings.cors:
        from starlette.middleware.cors import CORSMiddleware

        guarded = CORSMiddleware(
            guarded,
            allow_origins=dispatcher.settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Deadline-Ms"],
            expose_headers=["Retry-After", "X-Class-Index", "X-Class-Name", "X-Method"],
            max_age=600,
        )
    return guarded


def _prefix(request: Request) -> str:
    """The path that a proxy has taken off, as it says in X-Forwarded-Prefix; "" for what is no path.

    It changes the addresses that the description names, and nothing else.
    """
    prefix = request.headers.get("x-forwarded-prefix", "").rstrip("/")
    return prefix if re.fullmatch(r"(/[\w.~-]{1,100}){1,10}", prefix, re.ASCII) else ""


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101 - for the type checker
    return _problem(error.status, error.message, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such path, or another method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - for the type checker
    path, asked = request.scope["path"][:100], request.scope["method"] == "OPTIONS"
    if error.status_code == 405 or (asked and path == "*"):
        given = (error.headers or {}).get("Allow", "GET, POST")
        methods = given.replace("HEAD, ", "").replace(", HEAD", "").replace("GET", "GET, HEAD") + ", OPTIONS"
        if asked:
            return Response(status_code=204, headers={"Allow": methods})
        return _problem(405, f"{path} takes {methods} alone. See /docs.", {"Allow": methods})
    text = f"there is nothing at {path!r}. See /docs." if error.status_code == 404 else str(error.detail)
    return _problem(error.status_code, text, dict(error.headers or {}))


async def _invalid(request: Request, error: Exception) -> Response:
    """A parameter that is not allowed."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    parts = [f"{entry['loc'][-1]} is {str(entry.get('input'))[:60]!r}: {entry['msg']}" for entry in error.errors()]
    return _problem(422, f"{'; '.join(parts)}. See /docs.", {})


async def _unexpected(request: Request, error: Exception) -> Response:
    """Anything else; Starlette raises it again after this answer, and the guard logs it."""
    return _problem(500, UNEXPECTED, {})


def _problem(status: int, message: str, headers: dict[str, str]) -> Response:
    return Response(error_body(message), status, headers=headers, media_type="application/json")
