"""Ray Data: chunks → actors → rows. Scheduling, retries and the loss of nodes are Ray's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from vertebra.errors import VertebraError

from .nodes import actor_cpus, node_cpus
from .prediction_actor import PredictionActor, PredictionTask
from .ray_connection import ray_module, silence_ray_data

TASKS_IN_FLIGHT = 4  # of an actor: with one, it waits between two chunks (11.8 % of the time, with more 0.8 %)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONSEQUENCE = "The above exception was the direct cause"  # behind which Ray tells of itself
_RAISED = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt|Warning)\b(: |$)")  # the last line of a traceback
_NODE = re.compile(r"\bip[=:] ?([\w.:]+)")


def made_parts(task: PredictionTask, model: Path | None, parts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield what each part has come to (`PredictionActor`), in the order in which they end.

    `model` is the file to send to the nodes; None: each has it.

    Raises:
        VertebraError: Ray gives up.
    """
    content = None if model is None else ray_module().put(model.read_bytes())
    rows = [{"number": number} for number in parts]
    return actor_rows(
        PredictionActor, (task, content), rows, task.model.threads, "run the same command again with --resume"
    )


def actor_rows(
    actor: type, arguments: tuple[Any, ...], rows: Sequence[dict[str, Any]], threads: int, remedy: str
) -> Iterator[dict[str, Any]]:
    """Yield what actors return for each row, in the order in which they end.

    `actor` is a class, with the `arguments` of its constructor; a call takes a row and returns one. `threads` are those
    of an actor, and `remedy` is what to do if Ray gives up.

    Raises:
        VertebraError: Ray gives up.
    """
    ray = ray_module()
    from ray import data

    silence_ray_data()
    cpus = actor_cpus(threads)
    actors = max(1, min(len(rows), sum(int(node // cpus) for node in node_cpus())))
    found = data.from_items(list(rows), override_num_blocks=len(rows)).map(
        cast(Any, actor),
        fn_constructor_args=arguments,
        # One actor for each CPU that there is now; one more for each that joins, which Ray Data notices within 10 s. An
        # actor holds whole CPUs, so that no node has more actors than CPUs. Those of a node that dies find no room
        # elsewhere, and the few rows that each had been given wait for it: until nodes join, or until there are no
        # other rows, when the pool gives up idle actors, down to `min_size`, whose CPUs they then take.
        compute=data.ActorPoolStrategy(
            min_size=1, initial_size=actors, max_size=len(rows), max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT
        ),
        num_cpus=cpus,
    )
    try:
        for batch in found.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            yield from cast(Any, batch).to_pylist()
    except ray.exceptions.RayError as error:
        raise VertebraError(
            f"Ray has given up: {cause_of(error)}. Look at its logs with: ray logs cluster; then {remedy}."
        ) from error


def cause_of(error: Exception) -> str:
    """Say in one line where and why an actor failed: Ray's own texts are tracebacks of many lines, in colour."""
    text = _COLOUR.sub("", str(error))
    lines = [line.strip() for line in text.partition(_CONSEQUENCE)[0].splitlines() if line.strip()]
    raised = [line for line in lines if _RAISED.match(line)]
    reason = (raised or lines or [type(error).__name__])[-1][:300].rstrip(" .")
    node = _NODE.search(text)
    return f"node {node[1]}: {reason}" if node else reason
