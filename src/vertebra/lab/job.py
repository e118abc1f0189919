"""One experiment with its options: whether they fit, what is kept of it, and the measurement."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vertebra.anatomy.machine_calibration import describe_machine
from vertebra.data import DataError, open_dataset
from vertebra.errors import UsageError, shortened
from vertebra.progress import Progress
from vertebra.report.page import package_versions

from . import result_cache
from .experiment import Claim, Setup, takes_networks
from .registry import Entry, entries
from .result import SCHEMA, Result
from .small_photos import check_photos_of

PACKAGES = ("torch", "numpy", "scikit-learn")
QUICK_SECONDS = 2.0  # of a quick run, about
MIN_SEEDS, MAX_SEEDS = 3, 100  # of a full run


@dataclass(frozen=True)
class Options:
    """How experiments are run; see `run`."""

    quick: bool = False
    data: str | os.PathLike[str] | None = None
    device: str | torch.device = "cpu"
    seeds: int | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Job:
    """One experiment with its options, checked."""

    entry: Entry
    setup: Setup
    networks: Mapping[str, nn.Module]
    fresh: bool
    left_out: str = ""  # why it does not run

    @staticmethod
    def of(entry: Entry, options: Options, networks: Mapping[str, nn.Module], *, alone: bool) -> Job:
        """Check that the options fit; of several experiments, what one has no use for is not for it.

        Raises:
            UsageError: they do not.
        """
        experiment = entry.load()
        claim = experiment.CLAIM
        device = check_device(options.device)
        data = None if options.data is None else _path(options.data, options.quick)
        left_out = ""
        if options.quick and not claim.is_quick:
            if alone:
                raise UsageError(f"{entry.name} trains or times, so there is no quick run of it. Leave out --quick.")
            left_out = "it trains or times"
        if data is not None and claim.least_data is None:
            if alone:
                raise UsageError(_takes_none(entry, "uses no data set", "--data", taking_data(entries())))
            data = None
        if networks and takes_networks(experiment) is None:
            raise UsageError(_takes_none(entry, "is about networks of its own", "--model", taking_networks(entries())))
        if alone and options.seeds is not None and not claim.seeds:
            raise UsageError(f"nothing in {entry.name} is random. Leave out --seeds.")
        seeds = check_seeds(options.seeds, claim.seeds, options.quick)
        setup = Setup(seeds=seeds, quick=options.quick, device=device, data=data)
        return Job(entry, setup, networks, options.fresh, left_out)

    @property
    def claim(self) -> Claim:
        """The claim that it is of."""
        return self.entry.load().CLAIM

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return min(self.claim.seconds, QUICK_SECONDS) if self.setup.quick else self.claim.seconds

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result, as JSON data."""
        data = None if self.setup.data is None else str(self.setup.data.resolve())
        found = {"seeds": self.setup.seeds, "quick": self.setup.quick, "device": self.setup.device, "data": data}
        return found | {"models": list(self.networks)}

    @property
    def _key(self) -> dict[str, Any]:
        code = result_cache.code_digest(self.entry.path)
        return {"schema": SCHEMA, "code": code, **self.settings, **_environment(self.setup.device)}

    @property
    def is_kept(self) -> bool:
        """Whether its result is kept."""
        # The user's code and photos may change in ways that a key does not tell.
        return not self.networks and self.setup.data is None

    def kept(self) -> Result | None:
        """The result that is kept of it."""
        if not self.is_kept or self.fresh:
            return None
        values = result_cache.kept(self.entry.name, self._key)
        return None if values is None else replace(Result.from_dict(values), kept=True)

    def measured(self, progress: Progress) -> Result:
        """Run it, and keep the result."""
        key = self._key  # of the code that runs, even if it changes meanwhile
        experiment, setup = self.entry.load(), replace(self.setup, progress=progress)
        start = time.perf_counter()
        of_networks = takes_networks(experiment) if self.networks else None
        if of_networks is not None:
            # An experiment may change what it is given.
            measured = of_networks.measure_networks(setup, copy.deepcopy(dict(self.networks)))
            judgement = of_networks.judge_networks(measured)
        else:
            measured = experiment.measure(setup)
            judgement = experiment.judge(measured)
        how: dict[str, Any] = {"settings": self.settings, "environment": _environment(setup.device)}
        how |= {"seconds": time.perf_counter() - start, "date": datetime.now(UTC).isoformat(timespec="seconds")}
        result = Result.judged(self.entry, experiment.CLAIM, judgement, measured, **how)
        if self.is_kept:
            result_cache.keep(self.entry.name, key, result.to_dict())
        return result


def check_device(given: str | torch.device) -> str:
    """The device's name, or a `UsageError` if there is no such device here."""
    device = str(given)
    if device not in ("cpu", "cuda"):
        raise UsageError(f"device is {device!r}; it must be cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is 'cuda', and torch finds no GPU here. Leave out --device, or see: vertebra doctor")
    return device


def check_seeds(seeds: int | None, wanted: int, quick: bool) -> int:
    """The number of seeds to run: as given, else as the experiment says, else one; 0 where nothing is random.

    Raises:
        UsageError: it is no whole number in the range.
    """
    if seeds is None:
        return min(1, wanted) if quick else wanted
    least = 1 if quick else MIN_SEEDS
    if isinstance(seeds, bool) or not hasattr(seeds, "__index__") or not least <= seeds <= MAX_SEEDS:
        why = "" if quick else ": fewer give no interval"
        raise UsageError(f"seeds is {seeds!r}; it must be a whole number from {least} to {MAX_SEEDS}{why}.")
    return seeds if wanted else 0


def _path(data: Any, quick: bool) -> Path:
    """The path of labelled photos, of which a quick run has no use."""
    wanted = "give a folder that has one folder of photos per class, or a table of photos"
    if not isinstance(data, str | os.PathLike):
        raise UsageError(f"data is {shortened(repr(data))}, which is no path; {wanted}.")
    if not os.fspath(data):
        raise UsageError(f"data is empty, as an unset variable would be; {wanted}, or leave out --data.")
    if quick:
        raise UsageError("--quick trains nothing: leave out --data.")
    if not os.path.exists(data):  # noqa: PTH110 - that of `Path` may raise
        raise UsageError(f"data is '{os.fspath(data)}', which does not exist; {wanted}.")
    return Path(data)


def check_data(jobs: Sequence[Job]) -> None:
    """Raise a `UsageError` if the user's photos cannot be used, or are too few for each of these experiments."""
    taking = [(job.setup.data, job.claim.least_data) for job in jobs if job.setup.data and job.claim.least_data]
    if not taking:
        return
    try:
        dataset = open_dataset(taking[0][0], training=any(classes > 1 for _, (classes, _) in taking))
    except DataError as error:
        raise UsageError(str(error)) from error
    problems = []
    for _, least in taking:
        try:
            check_photos_of(dataset, *least)
        except UsageError as error:
            problems.append(error)
    if len(problems) == len(taking):
        raise problems[0]


def taking_data(chosen: Sequence[Entry]) -> tuple[Entry, ...]:
    """Those that can use a folder of photos."""
    return tuple(entry for entry in chosen if entry.load().CLAIM.least_data)


def taking_networks(chosen: Sequence[Entry]) -> tuple[Entry, ...]:
    """Those that can be asked of any network."""
    return tuple(entry for entry in chosen if takes_networks(entry.load()))


def _takes_none(entry: Entry, why: str, option: str, others: Sequence[Entry]) -> str:
    those = ", ".join(other.name for other in others) or "no experiment"
    return f"{entry.name} {why}. Leave out {option}, which is for {those}."


def _environment(device: str) -> dict[str, Any]:
    machine = {name: value for name, value in describe_machine("torch").items() if name in ("cpu", "threads")}
    machine |= {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {"machine": machine, "versions": package_versions(*PACKAGES)}
