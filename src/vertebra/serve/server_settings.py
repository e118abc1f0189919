"""The settings of a server and their validation."""

from __future__ import annotations

import ipaddress
import os
import re
import warnings
from dataclasses import dataclass, field

from vertebra.errors import UsageError, VertebraWarning
from vertebra.model_argument import resolve_model
from vertebra.runtime.engine import check_engine

API_KEY_VARIABLE = "VERTEBRA_API_KEY"
MIN_KEY_LENGTH = 8


@dataclass(frozen=True)
class ServerSettings:
    """The settings of one server. Sizes are in bytes, times in seconds."""

    models: tuple[str, ...] = ()  # MODEL or NAME=MODEL, as `model_argument.resolve_model` takes them for serve
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free port
    api_key: str | None = field(default=None, repr=False)
    no_auth: bool = False  # serve other machines without an API key
    cors: tuple[str, ...] = ()  # origins whose pages may send requests
    allow_host: tuple[str, ...] = ()  # Host names besides localhost: photos.example.org, *.example.org
    engine: str = "auto"
    tune: bool = False  # measure the fastest engine at the start if it is not known
    timeout: float = 30.0  # for each request, including its time in the queue
    queue: int = 256  # maximum number of images in each model's queue
    max_images: int = 64  # of one request
    max_bytes: int = 32 * 2**20  # of one request's body
    max_pixels: int = 50_000_000  # of one image
    reload_seconds: float = 1.0  # between two checks of the files
    read_seconds: float = 10.0  # for a request's headers, and again for its body
    # Time until an idle connection is closed; longer than the 60 s after which most load balancers close theirs, since
    # a balancer that reuses a connection just as it is closed reports an error.
    keep_alive: int = 75
    connections: int = 1000  # maximum number of open connections

    def check(self) -> None:
        """Validate all settings.

        Raises:
            UsageError: a value is not allowed, or the server would be open to other machines by accident.
        """
        if not self.models:
            raise UsageError("there is no model to serve. Give one or more: vertebra serve MODEL.onnx")
        check_engine(self.engine)
        for name in ("queue", "max_images", "max_bytes", "max_pixels", "connections"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("timeout", "reload_seconds", "read_seconds", "keep_alive"):
            if not 0 < getattr(self, name) < 1e9:
                raise UsageError(f"{name} is {getattr(self, name)} seconds; it must be above 0 and below 10⁹.")
        if not 0 <= self.port <= 65_535:
            raise UsageError(f"port is {self.port}; it must be between 0 and 65535 (0: any that is free).")
        if self.queue < self.max_images:
            raise UsageError(
                f"queue is {self.queue} and max_images {self.max_images}; a request with that many images would "
                "always be refused. Increase queue or reduce max_images."
            )
        if self.api_key is not None and not re.fullmatch(rf"[!-~]{{{MIN_KEY_LENGTH},}}", self.api_key):
            raise UsageError(
                f"the API key must be {MIN_KEY_LENGTH} or more printable ASCII characters without spaces. "
                'Make one with: python -c "import secrets; print(secrets.token_urlsafe())"'
            )
        if not is_loopback(self.host) and self.api_key is None and not self.no_auth:
            raise UsageError(
                f"host is {self.host}, so other machines could use this server. Set an API key ({API_KEY_VARIABLE}=… "
                "or --api-key), or use --no-auth if something else restricts access."
            )
        for origin in self.cors:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise UsageError(f"cors has {origin!r}; an origin is written like https://example.org, without a path.")
        for name in self.allow_host:
            if _parse_address(name) is None and not re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*\.?", name, re.ASCII):
                raise UsageError(
                    f"allow_host has {name!r}; a name is written like photos.example.org, or *.example.org for all "
                    "beneath it, in ASCII and without scheme, port or path."
                )

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of `cors` as browsers send them: in lower case and without the default port."""
        return tuple(re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", origin.lower()) for origin in self.cors)

    @property
    def max_body_bytes(self) -> int:
        """The most bytes of all bodies in memory together: four of the maximum size, or thousands of photos."""
        return 4 * self.max_bytes

    def sources_by_name(self) -> dict[str, str]:
        """The MODEL argument of each served name.

        Raises:
            UsageError: two models have the same name, or a name cannot be part of a URL.
        """
        found: dict[str, str] = {}
        for given in self.models:
            name, separator, source = given.partition("=")
            if not separator or "/" in name or (os.path.lexists(given) and not os.path.lexists(source)):
                with warnings.catch_warnings():  # they are reported when the file is loaded
                    warnings.simplefilter("ignore", VertebraWarning)
                    name, source = resolve_model(given, "serve").name, given
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name, re.ASCII):
                raise UsageError(
                    f"{name!r} cannot be a model's name: letters, digits, '_', '.' and '-' only. "
                    f"Choose another: vertebra serve NAME={source}"
                )
            if name in found:
                raise UsageError(
                    f"two models have the name {name!r}: {found[name]} and {source}. "
                    f"Choose another for one of them: vertebra serve {found[name]} NAME={source}"
                )
            found[name] = source
        return found


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    address = _parse_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
