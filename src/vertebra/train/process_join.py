"""How the processes that torchrun started find one another, at the first start and at each restart.

torchrun keeps its key-value store over a restart, with what the processes before it wrote: with `--rdzv-backend static`
the new ones then connect to addresses of dead ones (torch 2.14). So rank 0 chooses a new prefix at each start, and a
process uses it once rank 0 has answered it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Protocol

from vertebra.errors import UsageError
from vertebra.report import package_versions
from vertebra.strict_json import dumps

from .launch import Launch, LostProcessError

# Imports take seconds, and minutes from a busy network file system.
JOIN_TIMEOUT = timedelta(minutes=10)
_POLL_SECONDS = 0.05
_PREFIX = "vertebra/join"
# Packages whose versions decide what is learned.
_PACKAGES = ("torch", "torchvision", "pillow", "numpy")


class Store(Protocol):
    """What is used of torch's `Store`; `get` waits for a key."""

    def set(self, key: str, value: str, /) -> None: ...  # noqa: D102
    def get(self, key: str, /) -> bytes: ...  # noqa: D102
    def check(self, keys: list[str], /) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Peer:
    """One of the processes that train together."""

    rank: int
    node: int
    host: str
    agent: str | None
    device: str  # "cuda" or "cpu"
    versions: dict[str, str]

    @staticmethod
    def of_this_process(launch: Launch, device: str) -> Peer:
        """Return this process's own."""
        versions = {name: value for name, value in package_versions(*_PACKAGES).items() if name != "python"}
        return Peer(launch.rank, launch.node, socket.gethostname(), launch.agent, device, versions)

    @property
    def machine(self) -> str:
        """The machine, for messages."""
        return f"{self.host} (node {self.node})"


def join(store: Store, mine: Peer, size: int, timeout: timedelta = JOIN_TIMEOUT) -> tuple[str, list[Peer]]:
    """Return the prefix of this start's keys, and all processes by rank.

    Raises:
        LostProcessError: not all came in time; names those that did not, as far as it is known.
    """
    nonce = os.urandom(16).hex()
    hello = dumps({"nonce": nonce, "peer": asdict(mine)})
    if mine.rank == 0:
        return _gather(store, nonce, hello, size, timeout)
    prefix, deadline = "", time.monotonic() + timeout.total_seconds()
    while not (prefix and store.check([f"{prefix}/answer/{nonce}"])):
        # Rank 0 may be started again meanwhile, also on another machine.
        if store.check([_PREFIX]) and (current := store.get(_PREFIX).decode()) != prefix:
            prefix = current
            store.set(f"{prefix}/{mine.rank}", hello)
        _sleep(deadline, timeout, lambda: "rank 0 did not answer")
    return prefix, [Peer(**peer) for peer in json.loads(store.get(f"{prefix}/answer/{nonce}"))]


def _gather(store: Store, nonce: str, hello: str, size: int, timeout: timedelta) -> tuple[str, list[Peer]]:
    """Rank 0: choose a prefix, wait for the others, and answer them."""
    deadline = time.monotonic() + timeout.total_seconds()
    prefix = f"{_PREFIX}/{nonce}"
    store.set(f"{prefix}/0", hello)
    store.set(_PREFIX, prefix)
    keys = [f"{prefix}/{rank}" for rank in range(size)]

    def missing() -> str:
        absent = [str(rank) for rank, key in enumerate(keys) if not store.check([key])]
        return f"rank {', '.join(absent)} of {size} did not start"

    while not store.check(keys):
        _sleep(deadline, timeout, missing)
    found: list[dict[str, Any]] = [json.loads(store.get(key)) for key in keys]
    peers = [entry["peer"] for entry in found]
    for entry in found:
        store.set(f"{prefix}/answer/{entry['nonce']}", dumps(peers))
    return prefix, [Peer(**peer) for peer in peers]


def _sleep(deadline: float, timeout: timedelta, what: Callable[[], str]) -> None:
    if time.monotonic() > deadline:
        raise LostProcessError(f"{what()} within {timeout.total_seconds() / 60:g} minutes")
    time.sleep(_POLL_SECONDS)


def check_peers(peers: Sequence[Peer]) -> None:
    """Raise the same UsageError in every process if versions or kinds of device differ between the machines."""
    first = peers[0]
    for peer in peers[1:]:
        for name in first.versions | peer.versions:
            here, there = (entry.versions.get(name, "none") for entry in (first, peer))
            if here != there:
                raise UsageError(
                    f"{peer.machine} has {name} {there}, and {first.machine} has {here}, so they would not compute the "
                    "same. Install the same version on all machines."
                )
        if peer.device != first.device:
            cpu, gpu = (peer, first) if peer.device == "cpu" else (first, peer)
            raise UsageError(
                f"{cpu.machine} has no GPU for each of its processes, and {gpu.machine} has. Start fewer processes, or "
                "set CUDA_VISIBLE_DEVICES= on all machines, so that all train on the CPU."
            )
