"""Around every request: access control, overload, metrics, security headers, and errors as JSON."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .access_control import AccessControl
from .admission import Admission
from .api_errors import UNEXPECTED, ApiError
from .dispatcher import ClientDisconnectedError

log = logging.getLogger("vertebra.serve")

# Only files of its own, and pictures that it makes itself; no script within a page, no page around this one.
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

COMPUTED = frozenset(("/v1/predict", "/v1/embed", "/v1/explain"))


class Middleware:
    """An ASGI application around another.

    Args:
        app: what answers.
        admission: settings with key, host and origins; counters; whether there is room.
        page: the paths of the page's files, which need no key.
    """

    def __init__(self, app: ASGIApp, admission: Admission, page: frozenset[str]) -> None:
        self.app = app
        self.admission = admission
        self.metrics = admission.metrics
        self.access = AccessControl(admission.settings, admission.metrics, page)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, and count."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0
        complete = False
        # HEAD is GET without the body, which the connection leaves out.
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def sending(message: Message) -> None:
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
            self._check_load(scope)
            await self.app(inner, receive, sending)
        except ApiError as error:
            await error.response()(scope, receive, sending)
        except ClientDisconnectedError:
            status = 499
        except Exception:
            if status and not complete:
                raise  # uvicorn logs it, and hangs up: half of an answer must not pass for a whole one
            log.exception("%s %s failed", scope["method"], scope["path"][:200])
            if not status:
                await ApiError(500, UNEXPECTED).response()(scope, receive, sending)
        finally:
            route = inner.get("route")
            path = getattr(route, "path", None) or _route(scope["path"], self.access.open)
            self.metrics.answered(path, status, time.perf_counter() - start)

    def _check_load(self, scope: Scope) -> None:
        if scope["path"] in COMPUTED and scope["method"] == "POST":
            deadlines = (value for name, value in scope["headers"] if name == b"x-deadline-ms")
            if busy := self.admission.overload(next(deadlines, b"")):
                raise busy


def _route(path: str, page: frozenset[str]) -> str:
    """What the counters call a path that was not routed."""
    return path if path in COMPUTED else "page" if path in page else "other"
