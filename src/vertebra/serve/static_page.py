"""The web page's files, read once at the start, so that no request opens a file."""

from __future__ import annotations

import hashlib
from mimetypes import MimeTypes
from pathlib import Path

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
_FOLDER = Path(__file__).with_name("static")
_IMMUTABLE = "public, max-age=31536000, immutable"  # names under /assets/ change with their content

_types = MimeTypes()  # Python's table only, not the system's
_types.add_type("text/javascript", ".js")  # Python 3.11 has an older name
_types.add_type("font/woff2", ".woff2")  # from Python 3.13 on


class StaticPage:
    """The page's files by URL path."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self.files: dict[str, Response] = {}
        for path in folder.rglob("[!.]*"):
            if path.is_file():
                address = f"/{path.relative_to(folder).as_posix()}"
                self.files[address] = _file_response(address, path.read_bytes())
        self.files["/"] = self.files.get("/index.html") or _file_response("/index.html", _FALLBACK)

    async def respond(self, request: Request) -> Response:
        """The requested file, or 304 if the client has it."""
        file = self.files[request.scope["path"]]
        if request.headers.get("if-none-match") == file.headers["etag"]:
            return Response(status_code=304, headers={name: file.headers[name] for name in ("etag", "cache-control")})
        return file


def _file_response(address: str, content: bytes) -> Response:
    headers = {
        "ETag": f'"{hashlib.sha256(content).hexdigest()[:20]}"',
        "Cache-Control": _IMMUTABLE if address.startswith("/assets/") else "no-cache",
    }
    return Response(content, headers=headers, media_type=_types.guess_type(address)[0] or "application/octet-stream")
