"""What every request passes on its way in and out: who may ask, how long it takes, what browsers are told."""

from __future__ import annotations

import hmac
import logging
import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api_errors import JSON, UNEXPECTED, ApiError
from .dispatcher import ClientDisconnectedError, Dispatcher
from .server_settings import is_loopback

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
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::([0-9]{0,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443}


class Middleware:
    """An ASGI application around another.

    Args:
        app: what answers.
        dispatcher: settings with key, host and origins; counters; whether there is room.
        page: the paths of the page's files, which need no key.
    """

    def __init__(self, app: ASGIApp, dispatcher: Dispatcher, page: frozenset[str]) -> None:
        settings = dispatcher.settings
        self.app = app
        self.dispatcher = dispatcher
        self.metrics = dispatcher.metrics
        self.open = _OPEN | page
        self.key = None if settings.api_key is None else settings.api_key.encode()
        self.origins = frozenset(settings.origins)
        # A page of another site can have its name point here; what a browser then sends as Host gives it away. Where a
        # key is asked for, such a page lacks it.
        checked = settings.allow_host or (is_loopback(settings.host) and self.key is None)
        names = (*settings.allow_host, settings.host)
        self.hosts = frozenset(name.lower().removesuffix(".") for name in names) if checked else None

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
                headers: list[tuple[bytes, bytes]] = message["headers"]
                given = {name for name, _ in headers}
                headers.extend((name, value) for name, value in _HEADERS.items() if name not in given)
            else:
                complete = not message.get("more_body", False)
            await send(message)

        try:
            self._check(scope)
            await self.app(inner, receive, sending)
        except ApiError as error:
            await answer(sending, error)
        except ClientDisconnectedError:
            status = 499
        except Exception:
            if status and not complete:
                raise  # uvicorn logs it, and hangs up: half of an answer must not pass for a whole one
            log.exception("%s %s failed", scope["method"], scope["path"][:200])
            if not status:
                await answer(sending, ApiError(500, UNEXPECTED))
        finally:
            route = inner.get("route")
            path = getattr(route, "path", None) or _route(scope["path"], self.open)
            self.metrics.answered(path, status, time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if (host and not _HOST.fullmatch(host)) or sum(name == b"host" for name, _ in scope["headers"]) > 1:
            self.metrics.refused("host")
            raise ApiError(400, f"the Host header is {host[:100]!r}; send one, with a name and perhaps a port.")
        if self.hosts is not None and not self._answers_to(_hostname(host)):
            self.metrics.refused("host")
            allowed = self.dispatcher.settings.allow_host
            instead = "" if allowed else ", or with an API key"
            raise ApiError(
                403,
                f"the Host header is {host[:100]!r}; this server answers to {', '.join(('localhost', *allowed))} only. "
                f"Start it with --allow-host {_hostname(host)[:100] or 'NAME'}{instead}.",
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._may(origin.decode("latin-1"), host):
            self.metrics.refused("origin")
            raise ApiError(
                403,
                f"pages of {origin.decode('latin-1')[:100]!r} may not use this server, whose Host is {host[:100]!r}. "
                "Allow them with --cors; a proxy in between must pass the Host header on.",
            )
        if self.key is not None and scope["path"] not in self.open and scope["method"] != "OPTIONS":
            given = headers.get(b"x-api-key") or _bearer(headers.get(b"authorization", b""))
            if not hmac.compare_digest(given, self.key):
                self.metrics.refused("key")
                raise ApiError(
                    401,
                    "the API key is missing or wrong. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                    {"WWW-Authenticate": "Bearer"},
                )
        computed = scope["path"] in COMPUTED and scope["method"] == "POST"
        if computed and (busy := self.dispatcher.overload(headers.get(b"x-deadline-ms", b""))):
            raise busy

    def _answers_to(self, name: str) -> bool:
        """Whether the name of a Host header is one of this server's: a loopback one, its own, or an allowed one."""
        if self.hosts is None or name in self.hosts or is_loopback(name):
            return True
        return any(name.endswith(allowed[1:]) for allowed in self.hosts if allowed.startswith("*."))

    def _may(self, origin: str, host: str) -> bool:
        """Whether pages of that origin may ask: those of this server, and allowed ones.

        Which scheme the browser used is not known behind a proxy, so the page's own counts. What a proxy adds
        (X-Forwarded-Host) is not looked at: a client can send the same.
        """
        if origin in self.origins or "*" in self.origins:
            return True
        scheme, _, place = origin.partition("://")
        own, asked = _HOST.fullmatch(host), _HOST.fullmatch(place)
        if own is None or asked is None or scheme not in _PORTS:
            return False
        ports = [int(match[2] or _PORTS[scheme]) for match in (own, asked)]
        return _hostname(host) == _hostname(place) and ports[0] == ports[1]


def _route(path: str, page: frozenset[str]) -> str:
    """What the counters call a path that was not routed."""
    return path if path in COMPUTED else "page" if path in page else "other"


def _hostname(host: str) -> str:
    """`localhost` for `localhost:8000`, `::1` for `[::1]:8000`; "" for what is no host."""
    match = _HOST.fullmatch(host)
    return match[1].strip("[]").removesuffix(".").lower() if match else ""


def _bearer(authorization: bytes) -> bytes:
    """The token of https://www.rfc-editor.org/rfc/rfc6750; b"" where another scheme is used."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


async def answer(send: Any, error: ApiError) -> None:
    """Send an error."""
    headers = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    body = error.body
    headers += [(b"content-type", JSON), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
