"""uvicorn's HTTP connection with limits for clients that are idle or slow, send too much, or do not read responses."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .api_errors import error_body
from .prometheus_metrics import Metrics
from .server_settings import ServerSettings

MAX_HEAD_BYTES = 65_536  # of a request line and its headers

# Closing a connection with unread data resets it, and the client never sees its response. So the sending side is closed
# first, and what still arrives is discarded, within these limits.
_DRAIN_BYTES = 2**30
_DRAIN_SILENCE = 2.0  # seconds
_MAX_REFUSED = 100  # connections over the limit that get a response; further ones are closed at once

_IDLE, _HEAD, _BODY = range(3)  # the part of a request that the next byte belongs to


class Connection(HttpToolsProtocol):
    """One client's requests, one after another; uvicorn creates one per connection. Overrides are asyncio callbacks."""

    settings: ServerSettings
    metrics: Metrics

    _phase = _IDLE
    _header_bytes = 0  # of the request line and complete headers
    _partial_bytes = 0  # received since the request's first bytes, while its headers are incomplete
    _current_cycle: Any = None  # the request-response cycle that is answered next
    _final_response: bytes | None = None  # sent after the responses in progress, before closing
    _is_refused = False
    _drain_bytes_left: int | None = None  # bytes to discard before the connection is cut; None while it is in use
    _drain_deadline = 0.0
    _timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Refuse the client if there are too many connections."""
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        if len(self.connections) > self.settings.connections and not self._close_longest_idle():
            self.metrics.count_refusal("connections")
            self._refuse(503, "there are too many connections. Try again later.", b"retry-after: 1\r\n")
            return
        self._start_timer(self._on_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers and the requests in progress."""
        self._cancel_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._drain_bytes_left = 0
        if self._current_cycle is not None:  # uvicorn only knows the newest one
            _disconnect(self._current_cycle)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the data to the parser, within the limits."""
        if self._drain_bytes_left is not None:
            self._drain(len(data))
            return
        if self._final_response is not None:
            return
        if self._phase == _IDLE:
            data = data.lstrip(b"\r\n")  # some clients send an extra line break after a body
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
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._reject_malformed(error)
                return
        if self._phase == _HEAD and self._partial_bytes > MAX_HEAD_BYTES:
            self._reject_malformed(None)

    def pause_writing(self) -> None:
        """Abort the connection if the client does not read its response for too long."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.settings.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def on_message_begin(self) -> None:
        """A request starts."""
        super().on_message_begin()
        self._phase = _HEAD
        self._header_bytes = self._partial_bytes = 0
        if self._timer is None:
            self._start_timer(self._on_timeout)

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the URL."""
        super().on_url(url)
        self._count_header_bytes(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header."""
        super().on_header(name, value)
        self._count_header_bytes(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """Start the application, which reads the body as it arrives."""
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is for proxies")
            return  # `_head_without_upgrade` is called next
        if httptools.parse_url(self.url).path is None:  # http://host?query, which only proxies accept
            raise ValueError("its URL has no path")
        super().on_headers_complete()
        self._cancel_timer()
        self._phase = _BODY

    def on_message_complete(self) -> None:
        """The request and its body are complete."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._cancel_timer()
        self._phase = _IDLE
        if self.cycle.response_complete:  # it was answered before its end, and the rest of its body stopped the timer
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _head_without_upgrade(self) -> bytes:
        """The head of a request without its offer to upgrade (h2c, as Java's client sends it), for a new parser."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(part for part in value.split(b",") if part.strip().lower() != b"upgrade")
            if name not in (b"upgrade", b"http2-settings"):
                lines.append(b"%s: %s" % (name, value))
        self.parser = httptools.HttpRequestParser(self)  # the old one expects the other protocol
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _count_header_bytes(self, length: int) -> None:
        self._header_bytes += length
        if self._header_bytes > MAX_HEAD_BYTES:
            raise ValueError  # the parser raises HttpParserError

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._current_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Continue with the next request, or close."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.pause_reading()  # one read may contain thousands of requests
        if self._final_response is not None and self._current_cycle.response_complete:
            self.transport.write(self._final_response)
            self.transport.close()
        elif self._phase == _BODY and self.cycle.response_complete:
            # Refused before its body was read: the connection stays open if the rest arrives soon.
            self._start_timer(self.transport.close)

    def _reject_malformed(self, error: Exception | None) -> None:
        if error is None or self._header_bytes > MAX_HEAD_BYTES:
            self.metrics.count_refusal("headers")
            self._refuse(431, f"the headers have more than {MAX_HEAD_BYTES:,} bytes.")
        else:
            self.metrics.count_refusal("malformed")
            reason = " ".join(str(error.__context__ or error).split()).rstrip(".").lower() or "it is malformed"
            self._refuse(400, f"the request is not valid HTTP ({reason[:200]}).")

    def _on_timeout(self) -> None:
        self._timer = None
        if self._phase == _IDLE:  # no request to respond to
            self.transport.close()
        elif self.flow.read_paused:  # by the server, while earlier requests are processed
            self._start_timer(self._on_timeout)
        else:
            self.metrics.count_refusal("slow")
            self._refuse(408, f"the headers were not complete after {self.settings.read_seconds:g} seconds.")

    def _refuse(self, status: int, message: str, headers: bytes = b"") -> None:
        """Respond with an error, after the responses to earlier requests, and close."""
        self._cancel_timer()
        self._is_refused = True
        body = error_body(message)
        response = (
            b"HTTP/1.1 %d \r\ncontent-type: application/json\r\nconnection: close\r\n%scontent-length: %d\r\n\r\n%s"
            % (status, headers, len(body), body)
        )
        if self._phase == _BODY:  # the request already has a cycle
            if self.pipeline and self.pipeline[0][0] is self.cycle:
                self.pipeline.popleft()
            else:
                response = b"" if self.cycle.response_started else response
                _disconnect(self.cycle)
        current = self._current_cycle
        if current is not None and not current.response_complete and not current.disconnected:
            self._final_response = response
            return
        self.transport.write(response)
        self.transport.close()

    def _close_longest_idle(self) -> bool:
        """Close the connection that has been idle longest; False if none is idle."""
        idle = [
            (each.timeout_keep_alive_task.when(), id(each), each)
            for each in self.connections
            if isinstance(each, HttpToolsProtocol)
            and each.timeout_keep_alive_task is not None
            and not each.transport.is_closing()
        ]
        if idle:
            min(idle)[2].transport.close()
        return bool(idle)

    def close_gracefully(self, transport: Any) -> None:
        """Close the transport, after discarding what the client still sends, so that it can read its response."""
        is_sending = self._is_refused or self._phase != _IDLE or self.flow.read_paused
        is_crowded = len(self.connections) > self.settings.connections + _MAX_REFUSED
        if self._drain_bytes_left is not None or transport.is_closing() or not is_sending or is_crowded:
            transport.close()
            return
        self._cancel_timer()
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        transport.write_eof()
        self._drain_bytes_left = _DRAIN_BYTES
        self._drain_deadline = self.loop.time() + self.settings.read_seconds
        self._drain(0)

    def _drain(self, count: int) -> None:
        assert self._drain_bytes_left is not None  # noqa: S101 - for the type checker
        self._drain_bytes_left -= count
        self._cancel_timer()
        if self._drain_bytes_left < 0 or self.loop.time() > self._drain_deadline:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(_DRAIN_SILENCE, self.transport.close)

    def _start_timer(self, callback: Any) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(self.settings.read_seconds, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Transport:
    """asyncio's transport; `Connection` decides when it closes."""

    def __init__(self, transport: Any, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._connection._drain_bytes_left is None:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._connection._drain_bytes_left is not None or bool(self._transport.is_closing())

    def close(self) -> None:
        self._connection.close_gracefully(self._transport)


def _disconnect(cycle: Any) -> None:
    """Tell the application that the client is gone."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


def connection_type(settings: ServerSettings, metrics: Metrics) -> type[asyncio.Protocol]:
    """The connection class of one server, for uvicorn."""
    return type("Connection", (Connection,), {"settings": settings, "metrics": metrics})
