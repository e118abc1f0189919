"""Run experiments: `run` one, `run_all` several, with results that are kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vertebra.anatomy.machine_calibration import describe_machine
from vertebra.errors import UsageError, VertebraError, require_positive_int
from vertebra.progress import Progress, silent
from vertebra.report.page import package_versions

from . import result_cache
from .experiment import Experiment, Setup, takes_networks
from .registry import Entry, entries, find
from .result import Result
from .user_networks import load_networks

PACKAGES = ("torch", "numpy", "scikit-learn")
MIN_SEEDS, MAX_SEEDS = 3, 100  # of a full run


@dataclass(frozen=True)
class NotRun:
    """An experiment without a result: `--quick` leaves it out, or it failed."""

    number: str
    name: str
    reason: str
    failed: bool = False


def run(
    name: str | int,
    *,
    quick: bool = False,
    data: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    seeds: int | None = None,
    models: Sequence[str | nn.Module] = (),
    progress: Progress = silent,
    fresh: bool = False,
) -> Result:
    """Run one experiment, or take the result that is kept of it.

    Args:
        name: its name or number: "vgg-parameters", 1, "4a".
        quick: count only, and one seed.
        data: a folder of labelled photos, for the experiments that can use one.
        device: "cpu" or "cuda".
        seeds: for what is random; None: as many as the experiment says, at least 3.
        models: your own networks instead of the experiment's: modules, or names as in `vertebra lab run --model`.
        progress: called with the current task, and what is done of how much.
        fresh: whether to measure again where a result is kept.

    Raises:
        UsageError: no such experiment, or one that these options do not fit.
    """
    entry = find([str(name)])[0]
    experiment = entry.load()
    claim = experiment.CLAIM
    check_device(device)
    if quick and not claim.is_quick:
        raise UsageError(f"{entry.name} trains or times, so there is no quick run of it. Leave out --quick.")
    if data is not None and not claim.takes_data:
        others = ", ".join(e.name for e in entries() if e.load().CLAIM.takes_data)
        raise UsageError(f"{entry.name} uses no data set. Leave out --data, which is for {others}.")
    seeds = check_seeds(seeds, claim.seeds, quick)
    folder = None if data is None else Path(data)
    setup = Setup(seeds=seeds, quick=quick, device=device, data=folder, progress=progress)
    networks = load_networks(models)
    if networks and takes_networks(experiment) is None:
        others = ", ".join(e.name for e in entries() if takes_networks(e.load()))
        raise UsageError(f"{entry.name} is about networks of its own. Leave out --model, which is for {others}.")
    return _measured(entry, experiment, setup, networks, fresh)


def run_all(
    names: Sequence[str] = ("all",), *, progress: Progress = silent, quick: bool = False, **options: Any
) -> Iterator[Result | NotRun]:
    """Run experiments one after the other, in order; options are those of `run`.

    One that fails is told as `NotRun`; with `quick`, so is one that takes too long for it. Data and models go to those
    of several that take them.

    Raises:
        UsageError: there is no such experiment, or none of them takes the data or the models.
    """
    chosen = find(names)
    data, models = options.pop("data", None), options.pop("models", ())
    if len(chosen) == 1:
        yield run(chosen[0].name, progress=progress, quick=quick, data=data, models=models, **options)
        return
    if models:
        chosen = tuple(entry for entry in chosen if takes_networks(entry.load())) or chosen
    for place, entry in enumerate(chosen):
        claim = entry.load().CLAIM
        if quick and not claim.is_quick:
            yield NotRun(entry.number, entry.name, "not run: it trains or times")
            continue
        progress(f"{entry.number} {entry.name} (about {max(1, round(claim.seconds))} s)", place, len(chosen))
        try:
            given = data if claim.takes_data else None
            yield run(entry.name, progress=progress, quick=quick, data=given, models=models, **options)
        except VertebraError as error:
            yield NotRun(entry.number, entry.name, str(error), failed=True)


def check_device(device: str) -> None:
    """Raise a `UsageError` if there is no such device here."""
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device is {device!r}; it must be cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is 'cuda', and torch finds no GPU here. Leave out --device, or see: vertebra doctor")


def check_seeds(seeds: int | None, wanted: int, quick: bool) -> int:
    """The number of seeds to run: as given, else as the experiment says, else one."""
    if seeds is None:
        return 1 if quick else wanted
    require_positive_int("seeds", seeds)
    if wanted and not quick and not MIN_SEEDS <= seeds <= MAX_SEEDS:
        raise UsageError(f"seeds is {seeds}; it must be {MIN_SEEDS} to {MAX_SEEDS}: fewer give no interval.")
    return seeds if wanted else 0


def _measured(
    entry: Entry, experiment: Experiment, setup: Setup, networks: Mapping[str, nn.Module], fresh: bool
) -> Result:
    settings = {
        "seeds": setup.seeds,
        "quick": setup.quick,
        "device": setup.device,
        "data": None if setup.data is None else str(setup.data.resolve()),
        "models": list(networks),
    }
    environment = {"machine": _machine(setup.device), "versions": package_versions(*PACKAGES)}
    key = {"code": result_cache.code_digest(entry.path), **settings, **environment}
    # The user's code and photos may change in ways that a key does not tell.
    is_kept = not networks and setup.data is None
    if is_kept and not fresh and (values := result_cache.kept(entry.name, key)) is not None:
        return Result.from_dict(values)
    start = time.perf_counter()
    of_networks = takes_networks(experiment) if networks else None
    if of_networks is not None:
        measured = of_networks.measure_networks(setup, networks)
        judgement = of_networks.judge_networks(measured)
    else:
        measured = experiment.measure(setup)
        judgement = experiment.judge(measured)
    how: dict[str, Any] = {"settings": settings, "environment": environment}
    how |= {"seconds": time.perf_counter() - start, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    result = Result.judged(entry, experiment.CLAIM, judgement, measured, **how)
    if is_kept:
        result_cache.keep(entry.name, key, result.to_dict())
    return result


def _machine(device: str) -> dict[str, Any]:
    machine = {name: value for name, value in describe_machine("torch").items() if name in ("cpu", "threads")}
    return machine | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})
