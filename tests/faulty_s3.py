"""A small S3 that fails as networks and services do: late, cut, refused and overloaded answers, on 127.0.0.1.

`with FaultyS3() as server: server.objects["bucket/key"] = b"…"; server.faults.append(Cut("GET"))`. Each request takes
the first fault whose method fits; `times` says for how many requests it lasts.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Fault:
    """What goes wrong with requests of a method ("": all) for some times (-1: always), with `of` in their path."""

    method: str = ""
    times: int = -1
    of: str = ""  # such as `.jpg`: photos, but not their list


@dataclass
class Refuse(Fault):
    """A status with S3's code of the error."""

    status: int = 403
    code: str = "AccessDenied"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Stall(Fault):
    """No answer."""


@dataclass
class Cut(Fault):
    """The connection ends after a share of the body; with `stalls` it stays open, and nothing more comes."""

    share: float = 0.5
    stalls: bool = False
    drips: bool = False  # the rest comes byte by byte


class FaultyS3:
    """The server: HEAD, GET with ranges, PUT, DELETE and ListObjectsV2 of what is in `objects`."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}  # "bucket/key" -> content
        self.faults: list[Fault] = []
        self.requests: list[str] = []  # "GET /bucket/key"
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()  # ends what stalls
        self._server.shutdown()
        self._server.server_close()

    def take_fault(self, method: str, path: str) -> Fault | None:
        """Return the fault of the next request."""
        for fault in self.faults:
            if fault.times and fault.method in ("", method) and fault.of in path:
                fault.times -= 1
                return fault
        return None

    def wait(self, seconds: float = 120.0) -> bool:
        """Wait, but no longer than the server runs; return whether it has been closed."""
        return self._closed.wait(seconds)

    def list(self, bucket: str, prefix: str, delimiter: str, after: str, limit: int) -> str:
        """Return ListObjectsV2's answer."""
        found: list[tuple[str, bool]] = []
        for name in sorted(self.objects, key=str.encode):
            key = name.removeprefix(f"{bucket}/")
            if not name.startswith(f"{bucket}/") or not key.startswith(prefix):
                continue
            folder, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            entry = (prefix + folder + mark, True) if mark else (key, False)
            if entry[0] > after and entry not in found[-1:]:
                found.append(entry)
        cut, found = len(found) > limit, found[:limit]
        lines = [
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            if is_folder
            else f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<Size>{len(self.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key, is_folder in found
        ]
        token = f"<NextContinuationToken>{escape(found[-1][0])}</NextContinuationToken>" if cut else ""
        return (
            f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount>"
            f"<IsTruncated>{str(cut).lower()}</IsTruncated>{token}{''.join(lines)}</ListBucketResult>"
        )


def _unchunk(stream: Any) -> bytes:
    """Return the content of a body in chunks, without what comes after it."""
    parts = []
    while size := int(stream.readline().partition(b";")[0], 16):
        parts.append(stream.read(size))
        stream.readline()
    while stream.readline().strip():
        pass
    return b"".join(parts)


def _handler(server: FaultyS3) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle_any(self) -> None:
            method = self.command
            if self.headers.get("Transfer-Encoding") == "chunked":
                content = _unchunk(self.rfile)
            else:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "aws-chunked" in self.headers.get("Content-Encoding", ""):  # with a checksum at the end
                content = _unchunk(io.BytesIO(content))
            server.requests.append(f"{method} {self.path}")
            fault = server.take_fault(method, self.path)
            if isinstance(fault, Stall):
                server.wait()
                self.close_connection = True
                return
            if isinstance(fault, Refuse):
                body = f"<Error><Code>{fault.code}</Code><Message>made up</Message></Error>".encode()
                self.answer(fault.status, body, dict(fault.headers))
                return
            address = urlsplit(self.path)
            name, query = unquote(address.path).lstrip("/"), parse_qs(address.query)
            if method == "PUT":
                server.objects[name] = content
                self.answer(200, b"", {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})
            elif method == "DELETE":
                server.objects.pop(name, None)
                self.answer(204, b"")
            elif "list-type" in query:
                first = {key: values[0] for key, values in query.items()}
                text = server.list(
                    name, first.get("prefix", ""), first.get("delimiter", ""), first.get("continuation-token", ""),
                    int(first.get("max-keys", 1000)),
                )  # fmt: skip
                self.answer(200, text.encode(), {"Content-Type": "application/xml"})
            elif "/" not in name.rstrip("/"):
                self.answer(200, b"")
            elif name not in server.objects:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            else:
                self.give(server.objects[name], fault)

        do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = handle_any  # noqa: N815 - the names of http.server

        def give(self, content: bytes, fault: Fault | None) -> None:
            headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Accept-Ranges": "bytes"}
            status, asked = 200, self.headers.get("Range", "")
            if asked:
                first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
                headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
                status, content = 206, content[first : last + 1]
            self.answer(status, content, headers, fault if isinstance(fault, Cut) else None)

        def answer(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: Cut | None = None
        ) -> None:
            self.send_response(status)
            for key, value in {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            with contextlib.suppress(OSError):
                if cut is None:
                    self.wfile.write(body)
                    return
                sent = int(len(body) * cut.share)
                self.wfile.write(body[:sent])
                self.wfile.flush()
                self.close_connection = True
                if cut.stalls:
                    server.wait()
                for position in range(sent, len(body)) if cut.drips else ():
                    if server.wait(0.2):
                        return
                    self.wfile.write(body[position : position + 1])

    return Handler


@contextlib.contextmanager
def faulty_s3(**objects: bytes) -> Iterator[FaultyS3]:
    """Run the server with these objects in `bucket`."""
    with FaultyS3() as server:
        server.objects.update({f"bucket/{key}": content for key, content in objects.items()})
        yield server
