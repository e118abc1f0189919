"""Opens http and https addresses and nothing else, wherever a redirect leads: for photos and for weight files."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket


def build_web_opener(
    *, keep_https: bool = False, sockets: list[socket.socket] | None = None
) -> urllib.request.OpenerDirector:
    """An opener that follows a redirect to another web address alone, never to a file of this machine.

    Args:
        keep_https: refuse a redirect from https to http, too.
        sockets: each socket that is opened is added to it, for who ends a download from another thread.
    """
    opened = [] if sockets is None else sockets

    class Http(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            opened.append(self.sock)

    class Https(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            opened.append(self.sock)

    class HttpHandler(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(Http, req)

    class HttpsHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(Https, req)

    return urllib.request.build_opener(HttpHandler, HttpsHandler, SafeRedirectHandler(keep_https))


class SafeRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Refuses a redirect to anything but a web address, and from https to http where `keep_https`."""

    def __init__(self, keep_https: bool) -> None:
        self.keep_https = keep_https

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request that follows, or an `HTTPError`."""
        secure = self.keep_https and req.full_url.startswith("https:")
        if not newurl.lower().startswith("https:" if secure else ("https:", "http:")):
            raise urllib.error.HTTPError(req.full_url, code, f"(an unsafe redirect to {newurl})", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
