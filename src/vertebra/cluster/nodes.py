"""The nodes of a cluster: checked before a run, watched during it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vertebra import __version__
from vertebra.errors import VertebraError, first_line
from vertebra.storage import Location

from . import node_check
from .actor_wait import ActorWait
from .ray_connection import nodes_with_cpus, ray_module
from .source_sample import Sample

CHECK_SECONDS = 60.0  # in which a node has to answer
WATCH_SECONDS = 1.0


def alive_nodes() -> dict[str, str]:
    """Return the name of each node that is alive and has CPUs, by its number; the address where it has no other."""
    return {node["NodeID"]: node.get("NodeName") or node["NodeManagerAddress"] for node in nodes_with_cpus()}


def actor_cpus(threads: int) -> float:
    """Return the CPUs that an actor of so many threads holds: one for each, but not more than a node has."""
    return min(threads, max(node_cpus(), default=threads))


def node_cpus() -> list[float]:
    """Return the number of CPUs of each node that is alive and has any."""
    return [node["Resources"]["CPU"] for node in nodes_with_cpus()]


def require_usable_nodes(target: Location | None = None, token: bytes = b"", sample: Sample = ()) -> None:
    """Raise a `VertebraError` that names the first node that cannot take part, and why.

    `target` is what the nodes write to themselves, and `token` what the driver has put there; `sample` are files that
    they have to see.
    """
    ray = ray_module()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = alive_nodes()
    if not nodes:
        raise VertebraError("the Ray cluster has no CPUs. Start a node: ray start --address HOST:PORT")
    ray.cloudpickle.register_pickle_by_value(node_check)
    try:
        check = ray.remote(num_cpus=0, max_retries=1)(node_check.node_problem)
        answers: dict[str, Any] = {
            node: check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                __version__, str(Path.cwd()), None if target is None else target.uri, token, sample
            )
            for node in nodes
        }
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node_check)
    for node, answer in answers.items():
        try:
            problem = ray.get(answer, timeout=CHECK_SECONDS)
        except ray.exceptions.GetTimeoutError:
            problem = f"it does not answer within {CHECK_SECONDS:.0f} s. Look at: ray status"
        except ray.exceptions.RayError as error:
            if node not in alive_nodes():
                continue  # it has died meanwhile, which is no reason to stop
            problem = f"it cannot run a task ({first_line(error)}). Look at its logs: ray logs cluster"
        if problem:
            raise VertebraError(f"node {nodes[node]}: {problem}")


class NodeWatch:
    """Tells of nodes that die and of actors that wait for CPUs, and says how many nodes are alive."""

    def __init__(self, tell: Callable[[str], None], wait: ActorWait) -> None:
        self._tell = tell
        self._wait = wait
        self._nodes = alive_nodes()
        self._names = dict(self._nodes)
        self._ended = threading.Event()

    @property
    def alive(self) -> int:
        """Nodes that take part."""
        return len(self._nodes)

    def name(self, node: str) -> str:
        """Return what people call a node, also one that has died."""
        return self._names.get(node, node)

    def watch(self) -> None:
        """Look again and again; runs in a thread."""
        while not self._ended.wait(WATCH_SECONDS):
            try:
                nodes = alive_nodes()
                waits = self._wait.look()
            except Exception:  # noqa: S112 - the cluster ends, which the driver notices itself
                continue
            for node in self._nodes.keys() - nodes.keys():
                self._tell(f"node {self._nodes[node]} has died; its photos are predicted elsewhere.")
            self._nodes = nodes
            self._names |= nodes
            if waits:
                self._tell(waits)

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()


@contextmanager
def nodes_watched(tell: Callable[[str], None], threads: int) -> Iterator[NodeWatch]:
    """Inside, `tell` is called with a line for each node that dies, and where actors of `threads` wait for CPUs."""
    watch = NodeWatch(tell, ActorWait(actor_cpus(threads)))
    thread = threading.Thread(target=watch.watch, name="vertebra-nodes", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
