"""Ray, started here or joined: quiet, on loopback where it is this process's own, and shut down at the end."""

from __future__ import annotations

import io
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from typing import Any

from vertebra.errors import UsageError, VertebraError, first_line, require_extra
from vertebra.machine import usable_cores
from vertebra.signals import TERMINATION_SIGNALS, interrupts_kept

LOCAL = "local"
CONNECT_SECONDS = 5.0
OBJECT_STORE = 200_000_000  # bytes, of a cluster of this process: the model and small rows go through it


def ray_module() -> Any:
    """Import Ray; a `MissingExtraError` if it is not installed."""
    with require_extra("ray", "--ray"):
        import ray
    return ray


def nodes_with_cpus() -> list[dict[str, Any]]:
    """Return what Ray says of each node that is alive and has CPUs."""
    return [node for node in ray_module().nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Inside, Ray is connected to a cluster; one of this process (`"local"`) ends with the block.

    Raises:
        MissingExtraError: Ray is not installed.
        VertebraError: nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = ray_module()
    try:
        with interrupts_kept():  # Ctrl-C within Ray's locks and callbacks
            _start(ray, address)
            yield
    finally:
        with suppress(Exception):
            ray.shutdown()


def _start(ray: Any, address: str) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    if address != LOCAL:
        _require_answer(address)
    # Both take seconds, Ray's start mostly waiting for its processes.
    importing = threading.Thread(target=import_module, args=("ray.data",), daemon=True)
    importing.start()
    signals = {number: signal.getsignal(number) for number in TERMINATION_SIGNALS}  # Ray sets one of its own
    try:
        if address == LOCAL:
            ray.init(
                address="local",
                num_cpus=usable_cores(),
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            ray.init(address=_address_for_ray(address), **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise _connection_error(address, error) from error
    finally:
        for number, handler in signals.items():
            if handler is not None and threading.current_thread() is threading.main_thread():
                signal.signal(number, handler)
    importing.join()


def _require_answer(address: str) -> None:
    """Raise a `VertebraError` at once where nothing listens; Ray itself would try for a minute."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if address.startswith("ray://") or not port.isdecimal():
        raise UsageError(
            f"the address of the Ray cluster is {address!r}; it must be local, auto or HOST:PORT, such as "
            "10.0.0.1:6379, which `ray start --head` prints."
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as opened:
            speaks_grpc = "RAY_USE_TLS" in os.environ or _speaks_http2(opened)
    except (OSError, OverflowError) as error:
        raise _connection_error(address, error) from error
    if not speaks_grpc:
        raise VertebraError(f"what answers at {address} is no Ray cluster. `ray start --head` prints its address.")


def _speaks_http2(opened: socket.socket) -> bool:
    """Whether a server answers as gRPC's do, which Ray speaks: with a frame of settings (RFC 9113, 3.4)."""
    opened.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
    try:
        head = opened.recv(9)
    except TimeoutError:
        return False
    return len(head) > 3 and head[3] == 4


def _address_for_ray(address: str) -> str:
    """Return an address as `ray.init` reaches it.

    Ray replaces 127.0.0.1 by this machine's own address, on which a cluster that was told to stay on loopback does not
    answer. It leaves the same address in IPv6's form as it is.
    """
    host, _, port = address.rpartition(":")
    return f"[::ffff:127.0.0.1]:{port}" if host in ("127.0.0.1", "localhost") else address


def _connection_error(address: str, error: Exception) -> VertebraError:
    if "Version mismatch" in str(error):
        text = " ".join(str(error).split())
        return VertebraError(f"the Ray cluster at {address} has other versions than this process. {text}")
    if "AF_UNIX path length" in str(error):
        variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
        return VertebraError(
            f"Ray cannot keep its sockets in {os.environ.get(variable)}/ray ({variable}): their paths would have more "
            "than the 107 bytes that a system takes. Give a folder of at most 38 bytes, such as RAY_TMPDIR=/tmp."
        )
    where = "on this machine" if address in ("auto", LOCAL) else f"at {address}"
    remedy = "Start one with: ray start --head; or give --ray alone, which starts one for this command."
    if address == LOCAL:
        remedy = "Its logs are below /tmp/ray/session_latest/logs."
    return VertebraError(
        f"no Ray cluster can be used {where} ({getattr(error, 'strerror', None) or first_line(error)}). {remedy}"
    )


class _Nowhere(io.TextIOBase):
    """Takes text and writes it nowhere."""

    def write(self, text: str) -> int:
        """Say that it is written."""
        return len(text)


@contextmanager
def ray_output_silenced() -> Iterator[None]:
    """Inside, Ray writes nothing: neither its C++ on standard error, nor its Python on standard output.

    Both tell of each task that a dead node costs. Python's own standard error stays where it was; open what shows
    progress inside, and print results outside.
    """
    if "RAY_BACKEND_LOG_LEVEL" in os.environ:  # wanted
        yield
        return
    stream = sys.stderr
    kept = os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        if _is_standard_error(stream):
            stream.flush()
            sys.stderr = os.fdopen(os.dup(kept), "w", 1, encoding=stream.encoding, errors=stream.errors)
        os.dup2(nothing, 2)
        with redirect_stdout(_Nowhere()):
            yield
    finally:
        if sys.stderr is not stream:
            sys.stderr.close()
            sys.stderr = stream
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _is_standard_error(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == 2)
    except (OSError, ValueError, AttributeError):  # replaced by what is no file
        return False


def silence_ray_data() -> None:
    """Ray Data prints bars and plans of its own; `progress_bar` shows one for all."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
