"""Which engine, and how many lanes of how many threads: measured once for each file, batch size and machine.

The network alone does not show it: MNN is more than twice as fast as ONNX Runtime for VGG-16 and slower for
MobileNetV2. So a few seconds are spent on measuring, the first time that there are enough images to repay it, and the
result is kept in the cache.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vertebra.cache import cache_dir, cached_fingerprint, creation_lock, fingerprint, read_json, write_json
from vertebra.card import Card, read_card
from vertebra.errors import VertebraError
from vertebra.machine import processor_name
from vertebra.pixels import network_pixels
from vertebra.progress import Progress, silent
from vertebra.synthetic_photos import synthetic_photos

from . import mnn_engine
from .engine import EngineError, Plan
from .engine_runner import Runner, open_engine
from .prefetch import in_order

# Fewer images are done sooner than measured: loading and trying every engine takes seconds.
MIN_IMAGES_TO_MEASURE = 500

# A plan that is not at least this much faster than a simpler one before it is not worth another engine.
_GAIN = 0.99
_GAIN_DECODING = 0.95  # measured with decoding, where the least of many cannot be taken, times are less sure
_TURNS = 2
_SECONDS = 0.5  # of measuring a plan in each turn; twice that with decoding
_TOO_SLOW = 1.25  # times the best time of an image: not measured again


@dataclass(frozen=True)
class PlanTiming:
    """What a plan costs on this machine."""

    plan: Plan
    load: float  # seconds until it is ready
    image: float  # seconds an image

    def seconds(self, images: int | None) -> float:
        """For so many images, loading included; None: for very many."""
        return self.image if images is None else self.load + images * self.image


def default_plan(batch: int, cores: int, engine: str = "onnxruntime") -> Plan:
    """How an engine is run without having been measured."""
    if batch <= 1:
        return Plan(engine, lanes=1, threads=cores)
    lanes = min(cores, batch)
    return Plan(engine, lanes, threads=max(1, cores // lanes), micro_batch=max(1, min(4, batch // lanes)))


def candidate_plans(batch: int, cores: int, engine: str = "auto") -> list[Plan]:
    """The plans worth measuring, simple ones first."""
    plans = [default_plan(batch, cores)]
    if plans[0].lanes > 1:
        # All cores on one call: the weights are read once for all images, and Winograd's transforms shared.
        plans.append(Plan(lanes=1, threads=cores, micro_batch=batch))
    found = plans if engine in ("auto", "onnxruntime") else []
    if engine == "mnn" or (engine == "auto" and mnn_engine.installed() and not mnn_engine.has_lost_threads()):
        found = found + [replace(plan, engine="mnn", winograd=n) for plan in plans for n in mnn_engine.WINOGRAD_LEVELS]
    return found


def fastest_plan(
    path: Path,
    *,
    batch: int,
    cores: int,
    images: int | None = None,
    may_measure: bool = True,
    engine: str = "auto",
    decoding: bool = False,
    progress: Progress = silent,
) -> Plan:
    """The plan that gets `images` images done soonest (None: an endless stream), in batches of `batch`.

    Earlier measurements decide; without any, the plans are measured now if `may_measure` and `images` repays it.
    `decoding`: the same cores decode photos meanwhile, and plans are measured so; the fastest without decoding loses up
    to a third of its speed.
    """
    plans = candidate_plans(batch, cores, engine)
    if len(plans) <= 1:
        return plans[0] if plans else default_plan(batch, cores, engine)
    may_measure = may_measure and (images is None or images >= MIN_IMAGES_TO_MEASURE)
    digest = fingerprint(path) if may_measure else cached_fingerprint(path)
    if digest is None:
        return plans[0]
    note = cache_dir() / "engines" / f"{digest}.json"
    key = f"batch {batch}, {cores} cores{', decoding' if decoding else ''}"
    measured = _from_json(_kept(note).get(key), plans)
    if measured is None:
        if not may_measure:
            return plans[0]
        with creation_lock(note, lambda: progress("waiting for another process that finds the fastest engine")):
            # One at a time: two would disturb each other, and the second finds what the first has kept.
            measured = _from_json(_kept(note).get(key), plans)
            if measured is None:
                measured = measure(path, plans, batch, progress, decoding=decoding)
                found = _kept(note) | {key: [asdict(entry) for entry in measured]}
                write_json(note, {"setting": _setting(), "measured": found})
    return select_fastest(measured, images, _GAIN_DECODING if decoding else _GAIN).plan


def _kept(note: Path) -> dict[str, Any]:
    """What was measured here; another version of an engine, or another processor, makes it void."""
    found = read_json(note)
    measured = found["measured"] if found is not None and found.get("setting") == _setting() else {}
    return measured if isinstance(measured, dict) else {}


def _setting() -> dict[str, Any]:
    return {"processor": processor_name(), "versions": _versions()}


def select_fastest(measured: list[PlanTiming], images: int | None, gain: float = _GAIN) -> PlanTiming:
    """The entry that needs the least time, unless a simpler one before it needs hardly more."""
    best = measured[0]
    for entry in measured[1:]:
        if entry.seconds(images) < best.seconds(images) * gain:
            best = entry
    return best


def measure(
    path: Path, plans: list[Plan], batch: int, progress: Progress = silent, *, decoding: bool = False
) -> list[PlanTiming]:
    """Time every plan, each in a process of its own; one whose engine cannot run the file is left out.

    In one process the engines' waiting threads would disturb each other, and their memory would stay with the run.

    Raises:
        EngineError: no plan can be run; says why the first cannot.
    """
    best: dict[Plan, PlanTiming] = {}
    reasons: list[str] = []
    for turn in range(_TURNS):
        bound = min((entry.image for entry in best.values()), default=0.0) * _TOO_SLOW
        for plan in plans:
            if turn and (plan not in best or best[plan].image > bound):
                continue
            progress(f"finding the fastest engine: {plan}")
            found = _in_a_process(path, plan, batch, decoding)
            if isinstance(found, str):
                reasons.append(found)
                continue
            before = best.get(plan, found)
            # The least of many: whatever else runs on the machine only ever adds.
            best[plan] = PlanTiming(plan, min(before.load, found.load), min(before.image, found.image))
    if not best:
        raise EngineError(reasons[0])
    return [best[plan] for plan in plans if plan in best]


def _in_a_process(path: Path, plan: Plan, batch: int, decoding: bool) -> PlanTiming | str:
    """What a plan costs, or why it cannot be run."""
    import subprocess

    task = json.dumps({"path": os.fspath(path), "plan": asdict(plan), "batch": batch, "decoding": decoding})
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", __name__, task],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        return str(answer["error"]) if "error" in answer else PlanTiming(plan, answer["load"], answer["image"])
    except (IndexError, ValueError, KeyError, TypeError):
        return f"{plan.engine} cannot be tried on {path} (exit code {done.returncode}: {done.stderr[-200:].strip()})."


def _time(path: Path, plan: Plan, batch: int, decoding: bool) -> PlanTiming:
    card = read_card(path)
    if plan.engine == "mnn":
        mnn_engine.converted(path, card)  # before the clock runs: it is done once, loading at every start
    images = synthetic_photos(max(1, batch), card.preprocessing.crop_size)
    start = time.perf_counter()
    runner = Runner(open_engine(path, card, plan), plan)
    runner.run(images)
    load = time.perf_counter() - start
    if decoding:
        return PlanTiming(plan, round(load, 4), _with_decoding(runner, card))
    least, stop = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < stop:
        start = time.perf_counter()
        runner.run(images)
        least = min(least, time.perf_counter() - start)
    runner.close()
    return PlanTiming(plan, round(load, 4), least / len(images))


def _with_decoding(runner: Runner, card: Card) -> float:
    """Seconds an image where every thread decodes photos of an ordinary size for itself, as the pipeline's do."""
    file = io.BytesIO()
    Image.fromarray(synthetic_photos(2, 500)[1][:375]).save(file, "jpeg", quality=90)
    count, stop = 0, time.perf_counter() + 2 * _SECONDS

    def work(photos: Sequence[bytes]) -> list[None]:
        nonlocal count
        runner.call(np.stack([network_pixels(photo, card.preprocessing) for photo in photos]))
        count += len(photos)  # a race would only miscount
        return [None] * len(photos)

    def photos() -> Iterator[bytes]:
        while time.perf_counter() < stop:
            yield file.getvalue()

    plan = runner.plan
    start = time.perf_counter()
    for _ in in_order(photos(), work, workers=plan.lanes * plan.threads, chunk=plan.micro_batch):
        pass
    return (time.perf_counter() - start) / max(1, count)


def _main(task: str) -> None:
    """The process that `_in_a_process` starts: one line of JSON comes back."""
    wanted = json.loads(task)
    try:
        found = _time(Path(wanted["path"]), Plan(**wanted["plan"]), wanted["batch"], wanted["decoding"])
        answer: dict[str, Any] = {"load": found.load, "image": found.image}
    except VertebraError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


def _from_json(entries: Any, plans: list[Plan]) -> list[PlanTiming] | None:
    """What was kept, for those plans that are candidates still; None where it cannot be used."""
    try:
        found = [PlanTiming(Plan(**entry["plan"]), float(entry["load"]), float(entry["image"])) for entry in entries]
    except (TypeError, KeyError, ValueError):
        return None
    return [entry for entry in found if entry.plan in plans] or None


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for package in ("vertebra", "onnxruntime", "MNN"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    _main(sys.argv[1])
