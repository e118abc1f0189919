"""What every request passes on its way in and out: who may ask, how long it takes, what browsers are told."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .desk import ClientGoneError, Desk
from .problems import JSON, ApiError
from .settings import is_loopback

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

# What needs no key: the page (it asks for the key), probes, and what describes every server of this version.
_OPEN = frozenset(
    ("/", "/healthz", "/readyz", "/v1/info", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json")
)
COMPUTED = frozenset(("/v1/predict", "/v1/embed", "/v1/explain"))
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Guard:
    """An ASGI application around another.

    Args:
        app: what answers.
        desk: settings with key, host and origins; counters; whether there is room.
        page: the paths of the page's files, which need no key.
    """

    def __init__(self, app: ASGIApp, desk: Desk, page: frozenset[str]) -> None:
        settings = desk.settings
        self.app = app
        self.desk = desk
        self.metrics = desk.metrics
        self.open = _OPEN | page
        self.key = None if settings.api_key is None else settings.api_key.encode()
        self.origins = frozenset(settings.cors)
        # A page of another site can have its name point here; what a browser then sends as Host gives it away.
        self.hosts = frozenset((*_LOOPBACK_NAMES, settings.host)) if is_loopback(settings.host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, and count."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers: list[tuple[bytes, bytes]] = message["headers"]
                given = {name for name, _ in headers}
                headers.extend((name, value) for name, value in _HEADERS.items() if name not in given)
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, receive, sending)
        except ApiError as error:
            await answer(sending, error)
        except ClientGoneError:
            status = 499
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"][:200])
            if status:
                raise
            await answer(sending, ApiError(500, "this is not an error that the server expects; its log says more."))
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or _route(scope["path"], self.open)
            self.metrics.answered(path, status, time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if self.hosts is not None and _hostname(host) not in self.hosts:
            self.metrics.refused("host")
            raise ApiError(403, f"the Host header is {host[:100]!r}; this server answers to localhost only.")
        origin = headers.get(b"origin")
        if origin is not None and not self._may(origin.decode("latin-1"), host):
            self.metrics.refused("origin")
            raise ApiError(
                403, f"pages of {origin.decode('latin-1')[:100]!r} may not use this server. Allow them with --cors."
            )
        if self.key is not None and scope["path"] not in self.open and scope["method"] != "OPTIONS":
            given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").partition(b" ")[2].strip()
            if not hmac.compare_digest(given, self.key):
                self.metrics.refused("key")
                raise ApiError(
                    401,
                    "the API key is missing or wrong. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                    {"WWW-Authenticate": "Bearer"},
                )
        if scope["path"] in COMPUTED and (busy := self.desk.overload(headers.get(b"x-deadline-ms", b""))):
            raise busy

    def _may(self, origin: str, host: str) -> bool:
        return origin in self.origins or "*" in self.origins or urlsplit(origin).netloc.lower() == host.lower()


def _route(path: str, page: frozenset[str]) -> str:
    """What the counters call a path that was not routed."""
    return path if path in COMPUTED else "page" if path in page else "other"


def _hostname(host: str) -> str:
    """`localhost` for `localhost:8000`, `::1` for `[::1]:8000`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def answer(send: Any, error: ApiError) -> None:
    """Send an error."""
    headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    body = error.body
    headers += [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
