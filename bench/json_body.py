"""JSON tensors of `vertebra serve`: its reader beside orjson and pydantic, on a KServe request of 26 MB.

What counts is how long no other thread of Python runs meanwhile: the event loop answers all other requests, and a
parser in C or Rust holds Python's lock until it is done.
"""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import _common
import numpy as np
import orjson
from pydantic import BaseModel

from vertebra.pixels import Pixels
from vertebra.serve.json_body import parse_json, parse_uint8

SHAPE = (48, 224, 224, 3)
N = 9


class Tensor(BaseModel):
    name: str
    datatype: str
    shape: list[int]
    data: list[int]


class Request(BaseModel):
    inputs: list[Tensor]


def with_vertebra(body: bytes) -> Pixels:
    (entry,) = parse_json(body, 1)["inputs"]
    return parse_uint8(entry["data"], entry["shape"])


def with_orjson(body: bytes) -> Pixels:
    (entry,) = orjson.loads(body)["inputs"]
    return np.array(entry["data"], np.uint8).reshape(entry["shape"])


def with_pydantic(body: bytes) -> Pixels:
    (entry,) = Request.model_validate_json(body).inputs
    return np.array(entry.data, np.uint8).reshape(entry.shape)


def longest_pause(work: Callable[[], object]) -> float:
    """Seconds in which another thread could not run while `work` did."""
    done = threading.Event()
    pauses: list[float] = []

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            pauses.append(now - last)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    work()
    done.set()
    ticking.join()
    return max(pauses)


def peak(work: Callable[[], object]) -> float:
    """MB allocated at the highest."""
    tracemalloc.start()
    work()
    found = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return round(found, 1)


def main() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    entry = {"name": "image", "datatype": "UINT8", "shape": SHAPE, "data": pixels.ravel().tolist()}
    body = orjson.dumps({"inputs": [entry]})
    readers = {"vertebra": with_vertebra, "orjson": with_orjson, "pydantic": with_pydantic}
    calls = {name: lambda read=read: read(body) for name, read in readers.items()}
    for name, call in calls.items():
        assert np.array_equal(call(), pixels), name
    seconds = _common.alternate(calls, N)
    results: dict[str, Any] = {"body_mb": round(len(body) / 1e6, 1)}
    for name, call in calls.items():
        pauses = [longest_pause(call) for _ in range(N)]
        results[name] = {
            "ms": _common.summary(seconds[name], 1000),
            "longest_pause_ms": _common.summary(pauses, 1000),
            "peak_mb": peak(call),
        }
    print(_common.write("json_body", ("orjson", "pydantic", "numpy"), results).read_text())


if __name__ == "__main__":
    main()
