"""Ray Data: chunks → actors → rows. Scheduling, retries and the loss of nodes are Ray's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from vertebra.errors import VertebraError

from .prediction_actor import PredictionActor, PredictionTask
from .ray_connection import ray_module, silence_ray_data

TASKS_IN_FLIGHT = 4  # of an actor: with one, it waits between two chunks (11.8 % of the time, with more 0.8 %)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONSEQUENCE = "The above exception was the direct cause"  # behind which Ray tells of itself
_RAISED = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt|Warning)\b(: |$)")  # the last line of a traceback
_NODE = re.compile(r"\bip[=:] ?([\w.:]+)")
# Of a thread. A half, so that actors of a node that has died find room on the others, and what reads for them, too.
CPUS_PER_THREAD = 0.5


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
    cpus = ray.cluster_resources().get("CPU", 1.0)
    found = data.from_items(list(rows), override_num_blocks=len(rows)).map(
        cast(Any, actor),
        fn_constructor_args=arguments,
        compute=data.ActorPoolStrategy(
            size=max(1, min(len(rows), int(cpus // threads))), max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT
        ),
        num_cpus=CPUS_PER_THREAD * threads,
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
