"""Measurement of the fastest plan (engine, lanes, threads) for a file, batch size and machine; cached.

It has to be measured: MNN is more than twice as fast as ONNX Runtime for VGG-16, and slower for MobileNetV2. It takes a
few seconds, the first time that there are enough images to repay them. `engine_selection` decides when.
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
from vertebra.prefetch import in_order
from vertebra.progress import Progress, silent
from vertebra.synthetic_photos import synthetic_photos

from . import kernels_engine, mnn_engine
from .engine import PACKAGES, EngineError, Plan
from .engine_runner import Runner, open_engine

# For fewer images, measuring takes longer than it saves: every engine has to be loaded.
MIN_IMAGES_TO_MEASURE = 500

# A plan replaces a simpler one only if its time is below this fraction of the other's.
_MIN_SPEEDUP = 0.99
_MIN_SPEEDUP_DECODING = 0.95  # times with decoding are noisier: they are no minimum of many runs
_ROUNDS = 2
_SECONDS = 0.5  # per plan and round; twice that with decoding
_TURNS = 8  # of `beside_kernels`
_TOO_SLOW = 1.25  # a plan slower than this many times the best is not measured again


@dataclass(frozen=True)
class PlanTiming:
    """Measured times of a plan on this machine."""

    plan: Plan
    load: float  # seconds to load
    image: float  # seconds an image

    def seconds(self, images: int | None) -> float:
        """Estimate the time for `images` images, loading included; None: time per image of an endless stream."""
        return self.image if images is None else self.load + images * self.image


def default_plan(batch: int, cores: int, engine: str = "onnxruntime") -> Plan:
    """Return the plan for an engine that has not been measured."""
    if batch <= 1:
        return Plan(engine, lanes=1, threads=cores)
    lanes = min(cores, batch)
    return Plan(engine, lanes, threads=max(1, cores // lanes), micro_batch=max(1, min(4, batch // lanes)))


def candidate_plans(batch: int, cores: int, engine: str = "auto") -> list[Plan]:
    """List the plans to measure, simple ones first."""
    plans = [default_plan(batch, cores)]
    if plans[0].lanes > 1:
        # All cores on one call: the weights are read once for all images, and Winograd's transforms shared.
        plans.append(Plan(lanes=1, threads=cores, micro_batch=batch))
    found = plans if engine in ("auto", "onnxruntime") else []
    if engine == "mnn" or (engine == "auto" and mnn_engine.installed() and not mnn_engine.has_lost_threads()):
        found = found + [replace(plan, engine="mnn", winograd=n) for plan in plans for n in mnn_engine.WINOGRAD_LEVELS]
    if engine == "kernels" or (engine == "auto" and kernels_engine.installed()):
        found = found + [replace(plan, engine="kernels") for plan in plans]
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
    """Return the fastest plan for `images` images (None: an endless stream) in batches of `batch`.

    Plans are measured if no measurement of all of them is cached, `may_measure` is set and there are enough images.
    With `decoding`, they are measured while the same cores decode photos: the fastest plan without decoding may lose a
    third of its speed then.
    """
    plans = candidate_plans(batch, cores, engine)
    if len(plans) <= 1:
        return plans[0] if plans else default_plan(batch, cores, engine)
    may_measure = may_measure and (images is None or images >= MIN_IMAGES_TO_MEASURE)
    digest = fingerprint(path) if may_measure else cached_fingerprint(path)
    if digest is None:
        return plans[0]
    note = cache_dir() / "engines" / f"{digest}.json"
    # Each engine that is named has an entry of its own: only times of one session are comparable.
    named = "" if engine == "auto" else f", {engine}"
    key = f"batch {batch}, {cores} cores{', decoding' if decoding else ''}{named}"
    measured = _parse_timings(_load_timings(note).get(key), plans)
    if measured is None:
        if not may_measure:
            return plans[0]
        with creation_lock(note, lambda: progress("waiting for another process that finds the fastest engine")):
            # One process at a time: two would disturb each other, and the second reads the result of the first.
            measured = _parse_timings(_load_timings(note).get(key), plans)
            if measured is None:
                measured = measure(path, plans, batch, progress, decoding=decoding)
                found = _load_timings(note) | {key: _format_timings(measured, plans)}
                write_json(note, {"setting": _environment(), "measured": found})
    return select_fastest(measured, images, _MIN_SPEEDUP_DECODING if decoding else _MIN_SPEEDUP).plan


def _load_timings(note: Path) -> dict[str, Any]:
    """Load cached timings; those of other engine versions or another processor are ignored."""
    found = read_json(note)
    measured = found["measured"] if found is not None and found.get("setting") == _environment() else {}
    return measured if isinstance(measured, dict) else {}


def _environment() -> dict[str, Any]:
    return {"processor": processor_name(), "versions": _package_versions()}


def select_fastest(measured: list[PlanTiming], images: int | None, gain: float = _MIN_SPEEDUP) -> PlanTiming:
    """Select the fastest plan, or an earlier and simpler one that is almost as fast."""
    best = measured[0]
    for entry in measured[1:]:
        if entry.seconds(images) < best.seconds(images) * gain:
            best = entry
    return best


def measure(
    path: Path, plans: list[Plan], batch: int, progress: Progress = silent, *, decoding: bool = False
) -> list[PlanTiming]:
    """Time every plan in a separate process; plans whose engine cannot run the file are left out.

    In one process, idle threads of other engines would distort the times, and their memory would not be freed.

    Raises:
        EngineError: no plan can be run; the message is that of the first.
    """
    best: dict[Plan, PlanTiming] = {}
    reasons: list[str] = []
    for turn in range(_ROUNDS):
        bound = min((entry.image for entry in best.values()), default=0.0) * _TOO_SLOW
        for plan in plans:
            if turn and (plan not in best or best[plan].image > bound):
                continue
            progress(f"finding the fastest engine: {plan}")
            found = _time_in_subprocess(path, plan, batch, decoding)
            if isinstance(found, str):
                reasons.append(found)
                continue
            before = best.get(plan, found)
            # The minimum: other load on the machine only ever adds time.
            best[plan] = PlanTiming(plan, min(before.load, found.load), min(before.image, found.image))
    if not best:
        raise EngineError(reasons[0])
    return [best[plan] for plan in plans if plan in best]


def beside_kernels(path: Path, card: Card, runner: Runner) -> Runner:
    """Return a runner of the kernels where they are faster here than the given one, else that.

    It takes about a second, where `measure` takes 20: both run in this process, one call after another.
    """
    if runner.plan.engine == "kernels" or not kernels_engine.installed():
        return runner
    plan = replace(runner.plan, engine="kernels")
    try:
        other = Runner(open_engine(path, card, plan), plan)
    except EngineError:  # the kernels do not know the network
        return runner
    images = synthetic_photos(plan.micro_batch, card.preprocessing.crop_size)
    least = {runner: float("inf"), other: float("inf")}
    for _ in range(_TURNS):
        for one in least:
            start = time.perf_counter()
            one.call(images)
            least[one] = min(least[one], time.perf_counter() - start)
    if least[other] < least[runner] * _MIN_SPEEDUP_DECODING:
        return other
    other.close()
    return runner


def _time_in_subprocess(path: Path, plan: Plan, batch: int, decoding: bool) -> PlanTiming | str:
    """Return the times of a plan, or why it cannot be run."""
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


def _time_plan(path: Path, plan: Plan, batch: int, decoding: bool) -> PlanTiming:
    card = read_card(path)
    if plan.engine == "mnn":
        mnn_engine.converted(path, card)  # not timed: it is done once, loading at every start
    elif plan.engine == "kernels":
        kernels_engine.packed_file(path, card)
    images = synthetic_photos(max(1, batch), card.preprocessing.crop_size)
    start = time.perf_counter()
    runner = Runner(open_engine(path, card, plan), plan)
    runner.run(images)
    load = time.perf_counter() - start
    if decoding:
        return PlanTiming(plan, round(load, 4), _time_with_decoding(runner, card))
    least, stop = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < stop:
        start = time.perf_counter()
        runner.run(images)
        least = min(least, time.perf_counter() - start)
    runner.close()
    return PlanTiming(plan, round(load, 4), least / len(images))


def _time_with_decoding(runner: Runner, card: Card) -> float:
    """Measure seconds per image while every thread decodes 500 × 375 photos, as in the pipeline."""
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
    """Run in the process that `_time_in_subprocess` starts; print one line of JSON."""
    wanted = json.loads(task)
    try:
        found = _time_plan(Path(wanted["path"]), Plan(**wanted["plan"]), wanted["batch"], wanted["decoding"])
        answer: dict[str, Any] = {"load": found.load, "image": found.image}
    except VertebraError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


def _format_timings(measured: list[PlanTiming], plans: list[Plan]) -> list[dict[str, Any]]:
    """Format timings for the cache; a plan without a time cannot be run."""
    failed = [plan for plan in plans if plan not in [entry.plan for entry in measured]]
    return [asdict(entry) for entry in measured] + [{"plan": asdict(plan), "image": None} for plan in failed]


def _parse_timings(entries: Any, plans: list[Plan]) -> list[PlanTiming] | None:
    """Parse cached timings of plans that are still candidates; None unless they say of each of these what it takes."""
    try:
        found = {Plan(**entry["plan"]): entry for entry in entries}
        if not found.keys() >= set(plans):
            return None
        runnable = [plan for plan in plans if found[plan]["image"] is not None]
        return [PlanTiming(plan, float(found[plan]["load"]), float(found[plan]["image"])) for plan in runnable] or None
    except (TypeError, KeyError, ValueError):
        return None


def _package_versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for package in ("vertebra", *PACKAGES.values()):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    _main(sys.argv[1])
