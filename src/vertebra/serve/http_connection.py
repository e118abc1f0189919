"""One HTTP connection: uvicorn's, with limits for clients that are idle, slow or endless, or do not read answers."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .api_errors import error_body
from .prometheus_metrics import Metrics
from .server_settings import ServerSettings

MAX_HEAD_BYTES = 65_536  # of a request's line and headers

# Where a connection is closed before all has been read, the system would drop the answer with it: the client, still
# sending, gets a reset. So its side is closed first, and what comes is read and forgotten: for as long as a body may
# take, until the client is silent, or until it is more than a client sends by mistake.
_DRAIN_BYTES = 2**30
_DRAIN_SILENCE = 2.0  # seconds
_REFUSED = 100  # connections past the limit that get this answer; further ones are closed at once

_IDLE, _HEAD, _BODY = range(3)  # what the next byte belongs to


class Connection(HttpToolsProtocol):
    """Requests of one client, one after another; made by uvicorn for each that connects."""

    settings: ServerSettings
    metrics: Metrics

    _phase = _IDLE
    _header_bytes = 0  # bytes of the request's line and headers that are complete
    _partial_bytes = 0  # bytes that came after its first ones, while its headers are not
    _running: Any = None  # the cycle whose answer comes next
    _final_response: bytes | None = None  # what is sent after the answers under way, before closing
    _refused = False
    _left: int | None = None  # bytes that may still come before the connection is cut; None: it is in use
    _until = 0.0
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A client has connected."""
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        if len(self.connections) > self.settings.connections and not self._close_longest_idle():
            self.metrics.count_refusal("connections")
            self._refuse(503, "there are too many connections. Try again later.", b"retry-after: 1\r\n")
            return
        self._arm(self._on_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, on whichever side."""
        self._disarm()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._left = 0
        if self._running is not None:  # not always the newest, of which uvicorn knows
            _disconnect(self._running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        if self._left is not None:
            self._drain(len(data))
            return
        if self._final_response is not None:
            return
        if self._phase == _IDLE:
            data = data.lstrip(b"\r\n")  # some clients end a body with a line of its own; no request begins so
            if not data:
                return
        elif self._phase == _HEAD:
            self._partial_bytes += len(data)
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._declined() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._malformed(error)
                return
        if self._phase == _HEAD and self._partial_bytes > MAX_HEAD_BYTES:
            self._malformed(None)

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.settings.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._phase = _HEAD
        self._header_bytes = self._partial_bytes = 0
        if self._timer is None:
            self._arm(self._on_timeout)

    def on_url(self, url: bytes) -> None:
        """The address, or a part of it."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """The request is answered from here on, while its body comes in."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is a proxy's")
            return  # `_declined` comes next
        if httptools.parse_url(self.url).path is None:  # http://host?query, in the form for proxies
            raise ValueError("its address has no path")
        super().on_headers_complete()
        self._disarm()
        self._phase = _BODY

    def on_message_complete(self) -> None:
        """A request has come in whole."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._disarm()
        self._phase = _IDLE
        if self.cycle.response_complete:  # it was answered before its end, and what came then has stopped the clock
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _declined(self) -> bytes:
        """The head of a request that offers another protocol (h2c, as Java's client does), without that offer.

        The parser would take the body for that protocol; another reads all of it again.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(part for part in value.split(b",") if part.strip().lower() != b"upgrade")
            if name not in (b"upgrade", b"http2-settings"):
                lines.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _count(self, length: int) -> None:
        self._header_bytes += length
        if self._header_bytes > MAX_HEAD_BYTES:
            raise ValueError  # the parser stops, and says so

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """An answer has been written."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.pause_reading()  # thousands of requests fit in what is read at a time
        if self._final_response is not None and self._running.response_complete:
            self.transport.write(self._final_response)
            self.transport.close()
        elif self._phase == _BODY and self.cycle.response_complete:
            # Refused unread. The rest is passed by, and the connection goes on, where that comes soon.
            self._arm(self.transport.close)

    def _malformed(self, error: Exception | None) -> None:
        if error is None or self._header_bytes > MAX_HEAD_BYTES:
            self.metrics.count_refusal("headers")
            self._refuse(431, f"the headers have more than {MAX_HEAD_BYTES:,} bytes.")
        else:
            self.metrics.count_refusal("malformed")
            reason = " ".join(str(error.__context__ or error).split()).rstrip(".").lower() or "it is malformed"
            self._refuse(400, f"this is not HTTP that can be understood ({reason[:200]}).")

    def _on_timeout(self) -> None:
        self._timer = None
        if self._phase == _IDLE:  # silent all the time: there is nothing to answer
            self.transport.close()
        elif self.flow.read_paused:  # by this side, while earlier requests are answered
            self._arm(self._on_timeout)
        else:
            self.metrics.count_refusal("slow")
            self._refuse(408, f"the headers were not complete after {self.settings.read_seconds:g} seconds.")

    def _refuse(self, status: int, message: str, headers: bytes = b"") -> None:
        """Say that what comes cannot be taken, and close; first come the answers to what was asked before."""
        self._disarm()
        self._refused = True
        body = error_body(message)
        words = (
            b"HTTP/1.1 %d \r\ncontent-type: application/json\r\nconnection: close\r\n%scontent-length: %d\r\n\r\n%s"
            % (status, headers, len(body), body)
        )
        if self._phase == _BODY:  # it is the body of a request that has a cycle already
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            else:
                words = b"" if self.cycle.response_started else words
                _disconnect(self.cycle)
        if self._running is not None and not self._running.response_complete and not self._running.disconnected:
            self._final_response = words
            return
        self.transport.write(words)
        self.transport.close()

    def _close_longest_idle(self) -> bool:
        """Make room by closing the connection that has waited longest for its next request, where one waits."""
        waiting = [
            (each.timeout_keep_alive_task.when(), id(each), each)
            for each in self.connections
            if isinstance(each, HttpToolsProtocol)
            and each.timeout_keep_alive_task is not None
            and not each.transport.is_closing()
        ]
        if waiting:
            min(waiting)[2].transport.close()
        return bool(waiting)

    def close_gracefully(self, transport: Any) -> None:
        """Close the transport; where the client may still be sending, so that it can read its answer."""
        sending = self._refused or self._phase != _IDLE or self.flow.read_paused
        crowded = len(self.connections) > self.settings.connections + _REFUSED
        if self._left is not None or transport.is_closing() or not sending or crowded:
            transport.close()
            return
        self._disarm()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        transport.write_eof()
        self._left = _DRAIN_BYTES
        self._until = self.loop.time() + self.settings.read_seconds
        self._drain(0)

    def _drain(self, count: int) -> None:
        assert self._left is not None  # noqa: S101 - for the type checker
        self._left -= count
        self._disarm()
        if self._left < 0 or self.loop.time() > self._until:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(_DRAIN_SILENCE, self.transport.close)

    def _arm(self, then: Any) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.settings.read_seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Transport:
    """asyncio's, whose end is the connection's to decide."""

    def __init__(self, transport: Any, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._connection._left is None:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._connection._left is not None or bool(self._transport.is_closing())

    def close(self) -> None:
        self._connection.close_gracefully(self._transport)


def _disconnect(cycle: Any) -> None:
    """Whoever answers it need not go on."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def connection_type(settings: ServerSettings, metrics: Metrics) -> type[asyncio.Protocol]:
    """What uvicorn makes connections of, for one server."""
    return type("Connection", (Connection,), {"settings": settings, "metrics": metrics})
