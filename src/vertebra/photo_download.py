"""Download a photo from an http or https address: at most so many bytes, in so many seconds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vertebra import __version__
from vertebra.errors import ImageError
from vertebra.units import size

if TYPE_CHECKING:
    import socket

MAX_DOWNLOAD = 64_000_000  # bytes
MAX_SECONDS = 30.0  # for one download, from the first to the last byte


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
