"""python-multipart beside a parser of our own for the forms that `vertebra serve` takes: time and memory.

A whole request over loopback (EfficientNet-Lite0, one photo and eight), the parse alone, and a hostile body. The
parser of our own, which splits the body at its boundaries, is what the server had before; it is kept here to be
compared with. The rule: ours would have to be 1.3 times as fast over a whole request to be worth its lines.
"""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _common
from folder import photos

from vertebra.serve import ServerSettings, request_images
from vertebra.serve.request_images import RequestContent, Upload
from vertebra.serve.server import Server

REQUESTS = 60
PARSES = 200
_PARAMETER = re.compile(r';\s*([\w-]+\*?)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s]*))', re.ASCII)


def _parameters(value: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(value):
        found.setdefault(match[1].lower(), match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2]))
    return found


def split_parser(content_type: str, body: bytes, limit: int) -> RequestContent:
    """The body split at its boundaries, no more of them than are allowed."""
    boundary = _parameters(f";{content_type.partition(';')[2]}").get("boundary", "").encode("latin-1", "replace")
    content = RequestContent([])
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary, limit + 32)[1:]:
        if part.startswith(b"--"):
            return content
        head, _, data = part.partition(b"\r\n\r\n")
        pairs = (line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n"))
        headers = {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}
        named = _parameters(headers.get("content-disposition", ""))
        if "filename" in named:
            content.images.append(Upload(named["filename"] or named.get("name") or "image", data))
        elif "name" in named and len(data) <= 1_000:
            content.fields[named["name"]] = data.decode("utf-8", "replace")
        if len(content.images) > limit:
            raise request_images._too_many(limit)
    raise ValueError("the multipart body is cut short")


PARSERS: dict[str, Callable[[str, bytes, int], RequestContent]] = {
    "python-multipart": request_images.parse_multipart,
    "split": split_parser,
}


def form(files: list[bytes]) -> tuple[bytes, str]:
    head = (
        '--xyz\r\nContent-Disposition: form-data; name="files"; filename="{}.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    parts = [head.format(number).encode() + data + b"\r\n" for number, data in enumerate(files)]
    return b"".join(parts) + b"--xyz--\r\n", "multipart/form-data; boundary=xyz"


def requests(model: str, files: list[bytes]) -> dict[str, list[float]]:
    """Seconds of whole requests with each parser in turns, by one client that keeps its connection."""
    body, kind = form(files)
    with Server(ServerSettings(models=(f"m={model}",), port=0)) as server:
        host, _, port = server.url.removeprefix("http://").rpartition(":")
        connection = http.client.HTTPConnection(host, int(port))

        def ask(parser: Callable[..., RequestContent]) -> None:
            request_images.parse_multipart = parser
            connection.request("POST", "/v1/predict", body, {"Content-Type": kind})
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()

        try:
            return _common.alternate({name: lambda p=p: ask(p) for name, p in PARSERS.items()}, REQUESTS, warm=5)
        finally:
            request_images.parse_multipart = PARSERS["python-multipart"]
            connection.close()


def peak(parser: Callable[[str, bytes, int], RequestContent], body: bytes, kind: str) -> float:
    """MB that a parse allocates at its highest, beside the body itself."""
    tracemalloc.start()
    parser(kind, body, 64)
    found = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return round(found, 1)


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    found: dict[str, Any] = {name: _common.summary(values, 1000, 4) for name, values in seconds.items()}
    found["ratio_of_medians"] = round(found["python-multipart"]["median"] / found["split"]["median"], 3)
    found["ratio_of_minima"] = round(found["python-multipart"]["min"] / found["split"]["min"], 3)
    return found


def measure() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/lite0.onnx"
        subprocess.run([sys.executable, "-m", "vertebra", "export", "efficientnet_lite0", "--out", model], check=True)
        files = [Path(path).read_bytes() for path in photos(8)]
        whole = {f"photos_{count}": compared(requests(model, files[:count])) for count in (1, 8)}
    forms = {"photos_1": form(files[:1]), "photos_8": form(files), "bytes_32e6": form([bytes(32_000_000)])}
    parse = {
        name: compared(
            _common.alternate({key: lambda p=p, b=body, k=kind: p(k, b, 64) for key, p in PARSERS.items()}, PARSES)
        )
        for name, (body, kind) in forms.items()
    }
    memory = {name: peak(parser, *forms["bytes_32e6"]) for name, parser in PARSERS.items()}
    return {"request_ms": whole, "parse_ms": parse, "peak_mb_of_32_mb": memory}


if __name__ == "__main__":
    results = measure()
    path = _common.write("multipart_parser", ("python-multipart", "uvicorn", "onnxruntime"), results)
    print(path.read_text())
