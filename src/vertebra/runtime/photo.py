"""One image to predict, and its download if it is a web address."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from vertebra import __version__
from vertebra.decoding import Source
from vertebra.errors import ImageError
from vertebra.pixels import Pixels
from vertebra.units import size

if TYPE_CHECKING:
    import socket

MAX_DOWNLOAD = 64_000_000  # bytes
MAX_SECONDS = 30.0  # for one download, from the first to the last byte


@dataclass(frozen=True)
class NetworkPixels:
    """A preprocessed image: uint8 (S, S, 3), resized and cropped."""

    pixels: Pixels


Opened: TypeAlias = Source | Image.Image | NetworkPixels  # what is preprocessed


@dataclass(frozen=True)
class Photo:
    """A file, a web address, an open file or an image in memory."""

    path: str  # a file or a web address; for others, their name in results and errors
    error: str | None = None  # why it cannot be read
    content: Opened | Pixels | None = None  # an image in memory or an open file; None: read from `path`
    may_change: bool = False  # has to be read before the next item is requested, by one thread at a time

    def open(self) -> Opened:
        """Return what to decode; a web address is downloaded.

        Raises:
            ImageError: it has an error or no pixels, or cannot be downloaded.
        """
        if self.error is not None:
            raise ImageError(self.error)
        if self.content is None:
            return fetch(self.path) if is_url(self.path) else self.path
        if not isinstance(self.content, np.ndarray):
            return self.content
        if not self.content.size:
            height, width = self.content.shape[:2]
            raise ImageError(f"{self.path} has no pixels ({width} × {height})")
        return Image.fromarray(self.content)

    def opened(self) -> Photo:
        """Return the photo with its content, or with the error of `open`."""
        try:
            return replace(self, content=self.open())
        except ImageError as error:
            return Photo(self.path, error=str(error))

    def exists(self) -> bool:
        """Whether the file exists; always true for a web address."""
        return self.error is None and (is_url(self.path) or os.path.exists(self.path))  # noqa: PTH110 - may be no path


def is_url(path: str) -> bool:
    """Whether it is an http or https address."""
    return re.match(r"https?://", path, re.IGNORECASE) is not None


def fetch(url: str, *, max_bytes: int = MAX_DOWNLOAD, seconds: float = MAX_SECONDS) -> bytes:
    """Download a photo.

    Raises:
        ImageError: the download fails, has more than `max_bytes`, or takes longer than `seconds`.
    """
    import contextlib
    import http.client
    import socket
    import threading
    import urllib.error
    import urllib.request

    from vertebra.web_opener import build_web_opener

    sockets: list[socket.socket] = []
    late = threading.Event()

    def end() -> None:
        late.set()
        for opened in sockets:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)

    # The socket's own timeout restarts with each byte that a slow server sends.
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"vertebra/{__version__}", "Accept": "image/*"})  # noqa: S310
        with build_web_opener(sockets=sockets).open(request, timeout=seconds) as response:
            announced = response.headers.get("Content-Length", "")
            if announced.isdecimal() and int(announced) > max_bytes:
                raise ImageError(f"{url} has {size(int(announced))}; at most {size(max_bytes)} are downloaded.")
            content = bytearray()
            while part := response.read1(65_536):
                content += part
                if len(content) > max_bytes:
                    raise ImageError(f"{url} has more than {size(max_bytes)}, which is the most that is downloaded.")
            if late.is_set():
                raise TimeoutError
            if announced.isdecimal() and len(content) < int(announced):
                raise ImageError(f"{url} broke off after {size(len(content))} of {size(int(announced))}.")
            return bytes(content)
    except urllib.error.HTTPError as error:
        # What urllib says of a redirect that it refuses has several lines.
        reason = "it leads in a circle, or to no web address" if 300 <= error.code < 400 else error.reason
        raise ImageError(f"{url} cannot be fetched ({error.code} {reason}).") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise ImageError(f"{url} was not complete after {seconds:g} seconds.") from error
        cause = getattr(error, "reason", None) or error
        raise ImageError(f"{url} cannot be fetched ({cause or type(error).__name__}).") from error
    finally:
        timer.cancel()
