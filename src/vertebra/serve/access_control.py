"""Access control: the Host that a request names, the origin of the page that sends it, and the API key."""

from __future__ import annotations

import hmac
import re

from starlette.types import Scope

from .api_errors import ApiError
from .prometheus_metrics import Metrics
from .server_settings import ServerSettings, is_loopback

# What needs no key: the page (it asks for the key), probes, and what describes every server of this version.
_PUBLIC_PATHS = frozenset(
    ("/", "/healthz", "/readyz", "/v1/info", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json")
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::([0-9]{0,5}))?", re.ASCII)
_PORTS = {"http": 80, "https": 443}


class AccessControl:
    """Checks of every request.

    Args:
        settings: key, host, and the hosts and origins that are allowed beside it.
        metrics: counts what is refused.
        page: the paths of the page's files, which need no key.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics, page: frozenset[str]) -> None:
        self.metrics = metrics
        self.public_paths = _PUBLIC_PATHS | page
        self.allowed = settings.allow_host
        self.key = None if settings.api_key is None else settings.api_key.encode()
        self.origins = frozenset(settings.origins)
        # A page of another site can have its name point here; what a browser then sends as Host gives it away. Where a
        # key is asked for, such a page lacks it.
        checked = settings.allow_host or (is_loopback(settings.host) and self.key is None)
        names = (*settings.allow_host, settings.host)
        self.hosts = frozenset(name.lower().removesuffix(".") for name in names) if checked else None

    def check(self, scope: Scope) -> None:
        """Let the request pass.

        Raises:
            ApiError: 400, 401 or 403, with what to change.
        """
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if (host and not _HOST.fullmatch(host)) or sum(name == b"host" for name, _ in scope["headers"]) > 1:
            self.metrics.count_refusal("host")
            raise ApiError(400, f"the Host header is {host[:100]!r}; send one, with a name and perhaps a port.")
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
                "Allow them with --cors; a proxy in between must pass the Host header on.",
            )
        if self.key is not None and scope["path"] not in self.public_paths and scope["method"] != "OPTIONS":
            given = headers.get(b"x-api-key") or _bearer(headers.get(b"authorization", b""))
            if not hmac.compare_digest(given, self.key):
                self.metrics.count_refusal("key")
                raise ApiError(
                    401,
                    "the API key is missing or wrong. Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`.",
                    {"WWW-Authenticate": "Bearer"},
                )

    def _is_own_host(self, name: str) -> bool:
        """Whether the name of a Host header is one of this server's: a loopback one, its own, or an allowed one."""
        if self.hosts is None or name in self.hosts or is_loopback(name):
            return True
        return any(name.endswith(allowed[1:]) for allowed in self.hosts if allowed.startswith("*."))

    def _is_allowed_origin(self, origin: str, host: str) -> bool:
        """Whether pages of that origin may send requests: those of this server, and allowed ones.

        Which scheme the browser used is not known behind a proxy, so the page's own counts. What a proxy adds
        (X-Forwarded-Host) is ignored: a client can send the same.
        """
        if origin in self.origins or "*" in self.origins:
            return True
        scheme, _, place = origin.partition("://")
        own, asked = _HOST.fullmatch(host), _HOST.fullmatch(place)
        if own is None or asked is None or scheme not in _PORTS:
            return False
        ports = [int(match[2] or _PORTS[scheme]) for match in (own, asked)]
        return _hostname(host) == _hostname(place) and ports[0] == ports[1]


def _hostname(host: str) -> str:
    """`localhost` for `localhost:8000`, `::1` for `[::1]:8000`; "" for what is no host."""
    match = _HOST.fullmatch(host)
    return match[1].strip("[]").removesuffix(".").lower() if match else ""


def _bearer(authorization: bytes) -> bytes:
    """The token of https://www.rfc-editor.org/rfc/rfc6750; b"" where another scheme is used."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
