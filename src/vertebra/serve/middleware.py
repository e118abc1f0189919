"""Around every request: access control, overload, metrics, security headers, and errors as JSON."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access_control import AccessControl
from .api_errors import UNEXPECTED, ApiError
from .dispatcher import ClientDisconnectedError, Dispatcher

log = logging.getLogger("vertebra.serve")

# Only the server's own files and images made in the page; no inline scripts, and no embedding in other pages.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; worker-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(self), microphone=(), geolocation=()",
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"cache-control": b"no-store",
}

_INFERENCE_PATHS = frozenset(("/v1/predict", "/v1/embed", "/v1/explain"))


class Middleware:
    """ASGI middleware for every HTTP request.

    Args:
        app: the application with the routes.
        dispatcher: settings, counters and queues.
        page: paths of the web page's files, which need no API key.
    """

    def __init__(self, app: ASGIApp, dispatcher: Dispatcher, page: frozenset[str]) -> None:
        self.app = app
        self.dispatcher = dispatcher
        self.metrics = dispatcher.metrics
        self.access = AccessControl(dispatcher.settings, dispatcher.metrics, page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, pass it on, and count its response."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        complete = False
        # HEAD is GET without the body, which the connection omits.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def send_with_headers(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS.items() if name not in given]
                message = {**message, "headers": [*message["headers"], *added]}
            else:
                complete = not message.get("more_body", False)
            await send(message)

        try:
            self.access.check(scope)
            self._reject_overload(scope)
            await self.app(inner, receive, send_with_headers)
        except ApiError as error:
            await error.response()(scope, receive, send_with_headers)
        except ClientDisconnectedError:
            status = 499
        except Exception:
            if status and not complete:
                raise  # uvicorn logs it and closes the connection, so that the client sees an incomplete response
            log.exception("%s %s failed", scope["method"], scope["path"][:200])
            if not status:
                await ApiError(500, UNEXPECTED).response()(scope, receive, send_with_headers)
        finally:
            route = inner.get("route")
            path = getattr(route, "path", None) or _route_label(scope["path"], self.access.public_paths)
            self.metrics.count_response(path, status, time.perf_counter() - start)

    def _reject_overload(self, scope: Scope) -> None:
        if scope["path"] in _INFERENCE_PATHS and scope["method"] == "POST":
            deadlines = (value for name, value in scope["headers"] if name == b"x-deadline-ms")
            if busy := self.dispatcher.find_overload(next(deadlines, b"")):
                raise busy


def _route_label(path: str, page: frozenset[str]) -> str:
    """The `route` label for a path that was not routed."""
    return path if path in _INFERENCE_PATHS else "page" if path in page else "other"
