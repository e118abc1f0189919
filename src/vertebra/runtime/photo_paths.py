"""Where photos come from: files, folders, patterns, a list on standard input, the web.

The order is always the same: arguments as they are given, within a folder by name.
"""

from __future__ import annotations

import codecs
import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vertebra import __version__
from vertebra.decoding import Source
from vertebra.errors import ImageError, warn
from vertebra.file_kinds import Kind, left_out
from vertebra.photo_files import (
    SUFFIXES,
    CircleError,
    PassedByError,
    Way,
    descend,
    is_folder,
    is_link_to_nothing,
    is_passed_by,
    is_photo,
    is_system_folder,
    kind_left_out,
)
from vertebra.units import size

if TYPE_CHECKING:
    import socket

MAX_DOWNLOAD = 64_000_000  # bytes
MAX_SECONDS = 30.0  # for one download, from the first to the last byte

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Photo:
    """A photo to predict, or the reason why an argument gives none."""

    path: str  # a file or a web address
    error: str | None = None

    def open(self) -> Source:
        """What the decoder takes: the path, or the bytes of a download.

        Raises:
            ImageError: it cannot be downloaded.
        """
        return fetch(self.path) if is_url(self.path) else self.path

    def exists(self) -> bool:
        """Whether there may be something to read: a file that is there, or a web address."""
        return self.error is None and (is_url(self.path) or os.path.exists(self.path))  # noqa: PTH110 - as above


def photos(arguments: Iterable[str], stdin: IO[bytes] | None = None) -> Iterator[Photo]:
    """Each photo that the arguments stand for; a folder is searched with all below it.

    Args:
        arguments: files, folders, patterns such as `'shots/**/*.jpg'`, web addresses, or `-` for a list of any of these
            but patterns on standard input, one a line (or ended by a NUL, as `find -print0` writes them).
        stdin: what `-` reads; None where it is not allowed.
    """
    for argument in arguments:
        if argument == STANDARD_INPUT and stdin is not None:
            for line in listed(stdin):
                yield from _of(line)
        elif glob.has_magic(argument) and not is_url(argument) and not os.path.lexists(argument):
            yield from _matching(argument)
        else:
            yield from _of(argument)


def is_url(path: str) -> bool:
    """Whether it is fetched from the web rather than read from disk."""
    return re.match(r"https?://", path, re.IGNORECASE) is not None


def listed(stream: IO[bytes]) -> Iterator[str]:
    """The names in a list, one a line or ended by a NUL; empty ones are left out. Any bytes are a name.

    A list that begins with a byte order mark, as Windows writes them, is UTF-8 or UTF-16 without that mark.
    """
    first = True
    for line in stream:
        if first and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and b"\0" in line:
            # All at once: its lines do not end where those of bytes do.
            yield from filter(None, re.split(r"[\r\n]+", (line + stream.read()).decode("utf-16", "replace")))
            return
        for name in line.rstrip(b"\r\n").split(b"\0"):
            if first and name.startswith(codecs.BOM_UTF8) and not os.path.lexists(name):
                name = name.removeprefix(codecs.BOM_UTF8)
            first = False
            if name:
                yield os.fsdecode(name)


def _of(name: str) -> Iterator[Photo]:
    if is_url(name) or not os.path.isdir(name):  # noqa: PTH112 - a name may be no path at all (a NUL in it)
        yield Photo(name)
        return
    found = False
    kinds: dict[Kind, list[str]] = {}
    for photo in _below(name, Way(os.path.realpath(name)), kinds):
        found = True
        yield photo
    others = left_out(kinds)
    if not found:
        endings = ", ".join(sorted(SUFFIXES))
        more = f". {' '.join(others)}".rstrip(".") if others else ""
        yield Photo(name, f"{name}: there is no photo in this folder (looked for {endings}){more}")
    else:
        for other in others:
            warn(other)


def _matching(pattern: str) -> Iterator[Photo]:
    written = Path(pattern).parts
    found = {
        path: error
        for path, error in _expanded(pattern)
        if not any(is_system_folder(part) and part not in written for part in Path(path).parts[:-1])
    }
    if not found:
        yield Photo(pattern, f"{pattern}: no file matches")
    for path in sorted(found):
        if error := found[path]:
            yield Photo(path, error)
        # `**` gives folders and files alike: a folder's files come by themselves.
        elif "**" not in pattern or not os.path.isdir(path):  # noqa: PTH112
            yield from _of(path)


def _expanded(pattern: str) -> Iterator[tuple[str, str | None]]:
    """What a pattern stands for, or the reason why a folder below a `**` gives none.

    Not by `glob` alone: its `**` follows links in a circle, until the system has had enough.
    """
    before, stars, after = _at_stars(pattern)
    if not stars:
        yield from ((path, None) for path in glob.iglob(pattern))  # noqa: PTH207 - a pattern may be absolute
        return
    for top in glob.iglob(before) if before else [""]:  # noqa: PTH207
        if not os.path.isdir(top or os.curdir):  # noqa: PTH112
            continue
        for folder, error in _folders(top, Way(os.path.realpath(top or os.curdir))):
            if error is None:
                yield from _expanded(os.path.join(glob.escape(folder), after or "*"))  # noqa: PTH118
            else:
                yield folder, error


def _at_stars(pattern: str) -> tuple[str, str, str]:
    """What is before the first `**` that stands alone between separators, it, and what is behind it."""
    parts = re.split(r"(?:^|(?<=/))(\*\*)(?:/+|$)", pattern.replace(os.sep, "/"), maxsplit=1)
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (pattern, "", "")


def _folders(folder: str, way: Way) -> Iterator[tuple[str, str | None]]:
    """A folder and all below it, or the reason why one cannot be listed, without those that are hidden."""
    try:
        inside, below = descend(folder or os.curdir, way)
    except CircleError as circle:
        warn(f"{folder} {circle}: it is not followed.")
        return
    except PassedByError as error:
        yield folder, f"{folder} {error}"
        return
    yield folder, None
    for entry in inside:
        if is_folder(entry) and not entry.name.startswith("."):
            yield from _folders(os.path.join(folder, entry.name), below)  # noqa: PTH118


def _below(folder: str, way: Way, kinds: dict[Kind, list[str]]) -> Iterator[Photo]:
    """The photos in a folder and all below it, without what is hidden or a system's own.

    Links to folders are followed, but not in a circle. What cannot be listed, or leads nowhere, comes with the reason.
    Other files whose kind is told of are added to `kinds`.
    """
    try:
        inside, below = descend(folder, way)
    except CircleError as circle:
        warn(f"{folder} {circle}: it is not followed.")
        return
    except PassedByError as error:
        yield Photo(folder, f"{folder} {error}")
        return
    for entry in inside:
        if is_passed_by(entry):
            if kind := kind_left_out(entry):
                kinds.setdefault(kind, []).append(str(Path(entry.path)))
        elif is_folder(entry):
            yield from _below(entry.path, below, kinds)
        elif is_photo(entry):
            # Broken links and pipes too: what is there and cannot be read is named.
            yield Photo(str(Path(entry.path)))
        elif is_link_to_nothing(entry):
            # It may have been a folder of photos.
            yield Photo(str(Path(entry.path)), f"{entry.path} is a link to nothing")
        elif kind := kind_left_out(entry):
            kinds.setdefault(kind, []).append(str(Path(entry.path)))


# --- the web --------------------------------------------------------------------------------------------------------


def fetch(url: str, *, max_bytes: int = MAX_DOWNLOAD, seconds: float = MAX_SECONDS) -> bytes:
    """Download a photo.

    A redirect is followed only to another web address, never to a file of this machine.

    Raises:
        ImageError: it cannot be had, has more than `max_bytes`, or takes longer than `seconds`.
    """
    import http.client
    import threading
    import urllib.error
    import urllib.request

    sockets: list[socket.socket] = []
    late = threading.Event()

    def end() -> None:
        late.set()
        for opened in sockets:
            _shut(opened)

    # A timeout of the socket alone would be renewed by each byte that a slow server sends.
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"vertebra/{__version__}", "Accept": "image/*"})  # noqa: S310
        with _opener(sockets).open(request, timeout=seconds) as response:
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
    except ImageError:
        raise
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


def _opener(sockets: list[socket.socket]) -> Any:
    """Opens http and https and nothing else; each socket that it makes is put in `sockets`."""
    import http.client
    import urllib.request

    class Http(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Https(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class HttpHandler(urllib.request.HTTPHandler):
        def http_open(self, req: Any) -> Any:
            return self.do_open(Http, req)

    class HttpsHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: Any) -> Any:
            return self.do_open(Https, req)

    class Redirects(urllib.request.HTTPRedirectHandler):
        max_redirections = 5

        def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
            if not is_url(newurl):
                raise ValueError(f"it leads to {newurl}, which is no web address")
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        HttpHandler(),
        HttpsHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _shut(opened: socket.socket) -> None:
    import contextlib
    import socket

    with contextlib.suppress(OSError):
        opened.shutdown(socket.SHUT_RDWR)
