"""The page's files, read once at the start: what a request asks for is looked up, never opened."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

_FALLBACK = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Vertebra</title>
<meta name="viewport" content="width=device-width">
<h1>Vertebra is serving</h1>
<p>The page is not part of this installation. The API is described at <a href="docs">/docs</a>:</p>
<pre>curl -F files=@photo.jpg http://localhost:8000/v1/predict</pre>
</html>
"""
# Systems differ in what they know of these.
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".webmanifest": "application/manifest+json",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
_FOREVER = "public, max-age=31536000, immutable"  # names under /assets/ change with their content


@dataclass(frozen=True)
class File:
    """One file, ready to be sent."""

    content: bytes
    kind: str
    tag: str
    caching: str


class StaticPage:
    """All files of the page, by the path of their address."""

    def __init__(self, folder: Traversable | None = None) -> None:
        folder = folder or resources.files("vertebra.serve").joinpath("static")
        self.files: dict[str, File] = {}
        if folder.is_dir():
            self._take(folder, "")
        index = self.files.get("/index.html") or _file("index.html", _FALLBACK, "/")
        self.files["/"] = index

    def _take(self, folder: Traversable, path: str) -> None:
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                self._take(entry, f"{path}/{entry.name}")
            else:
                address = f"{path}/{entry.name}"
                self.files[address] = _file(entry.name, entry.read_bytes(), address)

    async def answer(self, request: Request) -> Response:
        """A file, or that the client has it already."""
        file = self.files[request.scope["path"]]
        headers = {"ETag": file.tag, "Cache-Control": file.caching}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.kind)


def _file(name: str, content: bytes, address: str) -> File:
    suffix = f".{name.rpartition('.')[2]}"
    kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
    return File(content, kind, tag, _FOREVER if address.startswith("/assets/") else "no-cache")
