"""Whether actors wait for CPUs that other work on the cluster holds, of which Ray Data says nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from .ray_connection import nodes_with_cpus, ray_module

# Seconds without an actor after which the user is told: where there was no room for one at the begin, and where there
# was, as the process of one may be slow to start; and until that is repeated.
FIRST, LATER, AGAIN = 10.0, 60.0, 300.0


class ActorWait:
    """Looked at again and again, it says when no actor of this process has had a CPU for some time.

    Args:
        cpus: of an actor.
        now: the time in seconds.
    """

    def __init__(self, cpus: float, now: Callable[[], float] = time.monotonic) -> None:
        self._cpus = cpus
        self._now = now
        self._due = now() + (LATER if self._has_room() else FIRST)

    def _has_room(self) -> bool:
        return any(cpus >= self._cpus for cpus, _ in free_cpus())

    def look(self) -> str | None:
        """Return the line to show, if it is time for it."""
        now = self._now()
        if now < self._due:
            return None
        if _has_actor() or self._has_room():  # where there is room, Ray is about to start one
            self._due = now + LATER
            return None
        self._due = now + AGAIN
        free = free_cpus()
        if not free:
            what = "the cluster has no node with CPUs. Start one: ray start --address HOST:PORT"
        else:
            sums = [sum(cpus) for cpus in zip(*free, strict=True)]
            needed = f"{self._cpus:g} on one node" if self._cpus > 1 else "1"
            what = (
                f"{sums[0]:g} of the cluster's {sums[1]:g} CPUs are free, and an actor needs {needed}. Other work "
                "holds them (`ray status` shows how many): end it or start another node"
            )
        return f"nothing is computed: {what}; this run goes on by itself as soon as there are some."


def free_cpus() -> list[tuple[float, float]]:
    """Return (CPUs that are free, CPUs) of each node that is alive and has any."""
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()
    return [(free.get(node["NodeID"], {}).get("CPU", 0.0), node["Resources"]["CPU"]) for node in nodes_with_cpus()]


def _has_actor() -> bool:
    """Whether an actor of this process runs. Ray's public list of actors needs a dashboard."""
    from ray._private.state import actors

    ray = ray_module()
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any(
        found["Address"]["NodeID"] in alive and not found["IsDetached"]  # Ray Data's own
        for found in actors(
            job_id=ray.JobID.from_hex(ray.get_runtime_context().get_job_id()), actor_state_name="ALIVE"
        ).values()
    )
