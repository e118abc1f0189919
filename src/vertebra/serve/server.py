"""The server process: socket, start and shutdown."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from types import TracebackType

import uvicorn

from vertebra.errors import UsageError, VertebraError

from .app import create_app
from .dispatcher import Dispatcher
from .http_connection import connection_type
from .model_registry import ModelRegistry
from .server_settings import ServerSettings

log = logging.getLogger("vertebra.serve")

_BACKLOG = 1024


class Server:
    """A server that runs in this thread (`run`) or in its own (`start`, or as a context manager)."""

    def __init__(self, settings: ServerSettings, registry: ModelRegistry | None = None) -> None:
        settings.check()
        self.settings = settings
        self.registry = registry or ModelRegistry(settings)
        self.metrics = self.registry.metrics
        self.socket = _bind_socket(settings.host, settings.port)
        self.dispatcher = dispatcher = Dispatcher(settings, self.registry, self.metrics)
        config = uvicorn.Config(
            create_app(dispatcher),
            http=connection_type(settings, self.metrics),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="warning",  # start and stop are logged here
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=settings.keep_alive,
            # All requests end by their deadline.
            timeout_graceful_shutdown=int(settings.timeout) + 5,
        )
        self.server = uvicorn.Server(config)
        dispatcher.is_stopping = lambda: self.server.should_exit
        self.registry.on_failure = self.stop
        open_connections = self.server.server_state.connections
        self.metrics.add_gauge("vertebra_connections", "Open connections.", lambda: len(open_connections))
        self.metrics.add_gauge(
            "vertebra_body_bytes", "Bytes of request bodies in memory.", lambda: dispatcher.body_reader.num_bytes
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        host, port = self.socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then finish the accepted requests.

        Raises:
            VertebraError: a model cannot be loaded.
        """
        try:
            if self.registry.failure is None:
                self.server.run([self.socket])
        finally:
            self.registry.close()  # a second signal skips the application's own shutdown
            self.socket.close()
        if self.registry.failure is not None:
            raise self.registry.failure

    def stop(self) -> None:
        """Stop accepting requests, finish the accepted ones, and end."""
        self.server.should_exit = True

    def start(self) -> Server:
        """Serve in a thread, and return when every model is ready.

        Raises:
            VertebraError: a model cannot be loaded.
        """
        self._thread = threading.Thread(target=self._run_quietly, name="vertebra-server", daemon=True)
        self._thread.start()
        while not (self.server.started and self.registry.is_ready):
            self._thread.join(0.01)
            if not self._thread.is_alive():
                raise self.registry.failure or VertebraError("the server ended before it was ready; see its log.")
        return self

    def _run_quietly(self) -> None:
        try:
            self.run()
        except Exception:
            log.debug("the server has ended", exc_info=True)  # `start` raises it

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()


def _bind_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: the address is in use or not one of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(f"host is {host!r}, which is not an address of this machine ({error.strerror}).") from error
    try:
        # Connections of a killed server would otherwise block the port for a minute.
        if sys.platform != "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        # From now on connections are queued, not refused.
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise UsageError(
            f"{host}:{port} cannot be listened on ({(error.strerror or str(error)).lower()}). "
            "Choose another with --port; --port 0 takes any free one."
        ) from error
    return found
