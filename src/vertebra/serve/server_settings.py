"""The settings of a server, and which are refused."""

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
    """Everything about one server. Sizes are in bytes, times in seconds."""

    models: tuple[str, ...] = ()  # MODEL or NAME=MODEL, as `model_argument.resolve_model` takes them for serve
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    api_key: str | None = field(default=None, repr=False)
    no_auth: bool = False  # serve other machines without a key
    cors: tuple[str, ...] = ()  # origins of other pages that may call it
    allow_host: tuple[str, ...] = ()  # names besides localhost that it is asked by: photos.example.org, *.example.org
    engine: str = "auto"
    tune: bool = False  # find the fastest engine before the first request, where that is not known yet
    timeout: float = 30.0  # until each request is answered, the queue included
    queue: int = 256  # images in the queue of each model, at most
    max_images: int = 64  # of one request
    max_bytes: int = 32 * 2**20  # of one request's body
    max_pixels: int = 50_000_000  # of one image
    reload_seconds: float = 1.0  # between two checks of the files
    read_seconds: float = 10.0  # for a request's headers, and again for its body
    # Until a connection without a request is closed. Balancers keep theirs for 60 by default, and one that is closed
    # just as it is used again is an error for a client.
    keep_alive: int = 75
    connections: int = 1000

    def check(self) -> None:
        """Refuse what cannot work, and what would open the server to anyone by accident.

        Raises:
            UsageError: says what is allowed.
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
                f"queue is {self.queue} and max_images {self.max_images}; a request of that many images would never "
                "find room. Allow a longer queue or fewer images."
            )
        if self.api_key is not None and not re.fullmatch(rf"[!-~]{{{MIN_KEY_LENGTH},}}", self.api_key):
            raise UsageError(
                f"the API key must be {MIN_KEY_LENGTH} or more printable ASCII characters without blanks. "
                'Make one with: python -c "import secrets; print(secrets.token_urlsafe())"'
            )
        if not is_loopback(self.host) and self.api_key is None and not self.no_auth:
            raise UsageError(
                f"host is {self.host}, so other machines could use this server. Set an API key ({API_KEY_VARIABLE}=… "
                "or --api-key), or say --no-auth where something else keeps them out."
            )
        for origin in self.cors:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise UsageError(f"cors has {origin!r}; an origin is written like https://example.org, without a path.")
        for name in self.allow_host:
            if _address(name) is None and not re.fullmatch(r"(\*\.)?[\w-]+(\.[\w-]+)*\.?", name, re.ASCII):
                raise UsageError(
                    f"allow_host has {name!r}; a name is written like photos.example.org, or *.example.org for all "
                    "beneath it, in ASCII and without scheme, port or path."
                )

    @property
    def origins(self) -> tuple[str, ...]:
        """Those of `cors` as browsers write them: in lower case, without the port that goes without saying."""
        return tuple(re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", origin.lower()) for origin in self.cors)

    @property
    def max_body_bytes(self) -> int:
        """Of all bodies in memory at a time: four large ones, or thousands of usual photos."""
        return 4 * self.max_bytes

    def named(self) -> dict[str, str]:
        """The name under which each model is served → what was given for it.

        Raises:
            UsageError: two have the same name, or one has a name that no address can hold.
        """
        found: dict[str, str] = {}
        for given in self.models:
            name, separator, source = given.partition("=")
            if not separator or "/" in name or (os.path.lexists(given) and not os.path.lexists(source)):
                with warnings.catch_warnings():  # they are shown where the file is loaded
                    warnings.simplefilter("ignore", VertebraWarning)
                    name, source = resolve_model(given, "serve").name, given
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", name, re.ASCII):
                raise UsageError(
                    f"{name!r} cannot be a model's name: letters, digits, '_', '.' and '-' only. "
                    f"Give it another: vertebra serve NAME={source}"
                )
            if name in found:
                raise UsageError(
                    f"two models are called {name!r}: {found[name]} and {source}. "
                    f"Give one another name: vertebra serve {found[name]} NAME={source}"
                )
            found[name] = source
        return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
