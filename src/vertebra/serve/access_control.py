"""Access control by the Host header, the Origin header and the API key."""

from __future__ import annotations

import hmac
import re

from starlette.types import Scope

from .api_errors import ApiError
from .prometheus_metrics import Metrics
from .server_settings import ServerSettings, is_loopback

# Paths without an API key: the page (which asks for it), the probes, and what is the same on every server.
_PUBLIC_PATHS = frozenset(
    ("/", "/healthz", "/readyz", "/v1/info", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json")
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::([0-9]{0,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443}


class AccessControl:
    """Checks every request.

    Args:
        settings: API key, host, and allowed hosts and origins.
        metrics: counts refused requests.
        page: paths of the web page's files, which need no API key.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics, page: frozenset[str]) -> None:
        self.metrics = metrics
        self.public_paths = _PUBLIC_PATHS | page
        self.allowed = settings.allow_host
        self.key = None if settings.api_key is None else settings.api_key.encode()
        self.origins = frozenset(settings.origins)
        # DNS rebinding: a page of another site makes its name resolve to this server, but the browser still sends that
        # name as Host. With an API key such a page is refused anyway.
        checked = settings.allow_host or (is_loopback(settings.host) and self.key is None)
        names = (*settings.allow_host, settings.host)
        self.hosts = frozenset(name.lower().removesuffix(".") for name in names) if checked else None

    def check(self, scope: Scope) -> None:
        """Raise an error unless the request is allowed.

        Raises:
            ApiError: 400 malformed Host, 401 missing or wrong API key, 403 Host or origin not allowed.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if (host and not _HOST.fullmatch(host)) or sum(name == b"host" for name, _ in scope["headers"]) > 1:
            self.metrics.count_refusal("host")
            raise ApiError(400, f"the Host header is {host[:100]!r}; send exactly one, a name with an optional port.")
        if self.hosts is not None and not self._is_own_host(_hostname(host)):
            self.metrics.count_refusal("host")
            allowed = self.allowed
            instead = "" if allowed else ", or with an API key"
            raise ApiError(
                403,
                f"the Host header is {host[:100]!r}; this server answers to {', '.join(('localhost', *allowed))} only. "
                f"Start it with --allow-host {_hostname(host)[:100] or 'NAME'}{instead}.",
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._is_allowed_origin(origin.decode("latin-1"), host):
            self.metrics.count_refusal("origin")
            raise ApiError(
                403,
                f"pages of {origin.decode('latin-1')[:100]!r} may not use this server, whose Host is {host[:100]!r}. "
                "Allow them with --cors; a proxy must pass on the Host header.",
            )
        if self.key is not None and scope["path"] not in self.public_paths and scope["method"] != "OPTIONS":
            given = headers.get(b"x-api-key") or _bearer_token(headers.get(b"authorization", b""))
            if not hmac.compare_digest(given, self.key):
                self.metrics.count_refusal("key")
                raise ApiError(
                    401,
                    "the API key is missing or wrong. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                    {"WWW-Authenticate": "Bearer"},
                )

    def _is_own_host(self, name: str) -> bool:
        """Whether a Host header names this server: a loopback name, its own, or an allowed one."""
        if self.hosts is None or name in self.hosts or is_loopback(name):
            return True
        return any(name.endswith(allowed[1:]) for allowed in self.hosts if allowed.startswith("*."))

    def _is_allowed_origin(self, origin: str, host: str) -> bool:
        """Whether pages of that origin may send requests: the server's own pages and allowed origins.

        The scheme is taken from the origin, since a proxy hides the one that the browser used. X-Forwarded-Host is
        ignored, since any client can send it.
        """
        if origin in self.origins or "*" in self.origins:
            return True
        scheme, _, origin_host = origin.partition("://")
        own, other = _HOST.fullmatch(host), _HOST.fullmatch(origin_host)
        if own is None or other is None or scheme not in _PORTS:
            return False
        ports = [int(match[2] or _PORTS[scheme]) for match in (own, other)]
        return _hostname(host) == _hostname(origin_host) and ports[0] == ports[1]


def _hostname(host: str) -> str:
    """`localhost` for `localhost:8000`, `::1` for `[::1]:8000`; "" if malformed."""
    match = _HOST.fullmatch(host)
    return match[1].strip("[]").removesuffix(".").lower() if match else ""


def _bearer_token(authorization: bytes) -> bytes:
    """The token (https://www.rfc-editor.org/rfc/rfc6750); b"" for other schemes."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
