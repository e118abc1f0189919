"""Run experiments: `run` one, `Run` several, with results that are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vertebra.errors import UsageError, VertebraError, first_line
from vertebra.progress import Progress, silent

from .each_network import REFUSED, NotApplicableError
from .job import Job, Options, check_data, taking_data, taking_networks
from .registry import ALL, Entry, find, find_one
from .result import Result
from .user_networks import Models, load_networks


@dataclass(frozen=True)
class NotRun:
    """An experiment without a result: `--quick` leaves it out, it is about nothing in these networks, or it failed."""

    number: str
    name: str
    reason: str
    failed: bool = False
    applies: bool = True

    @property
    def state(self) -> str:
        """Which of these, in English."""
        return "failed" if self.failed else "not run" if self.applies else REFUSED

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        return dict(vars(self))


def run(
    name: str | int,
    *,
    quick: bool = False,
    data: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    seeds: int | None = None,
    models: Models = (),
    progress: Progress = silent,
    fresh: bool = False,
) -> Result:
    """Run one experiment, or take the result that is kept of it.

    Args:
        name: its name or number: "vgg-parameters", 1, "4a".
        quick: count only, and one seed.
        data: a folder or table of labelled photos, for the experiments that can use one.
        device: "cpu" or "cuda".
        seeds: for what is random; None: as many as the experiment says, at least 3.
        models: your own networks instead of the experiment's: a module or several, or texts as `vertebra lab run
            --model` takes them; a mapping gives them names.
        progress: called with the current task, and what is done of how much.
        fresh: whether to measure again where a result is kept.

    Raises:
        UsageError: no such experiment, or one that these options do not fit.
    """
    if str(name).strip().lower() == ALL:
        raise UsageError(f"run takes one experiment, and name is {name!r}. For several: vertebra.lab.run_all(…)")
    job = Job.of(find_one(name), Options(quick, data, device, seeds, fresh), load_networks(models), alone=True)
    check_data([job])
    return job.kept() or job.measured(progress)


def run_all(
    names: str | int | Sequence[str | int] = ALL,
    *,
    quick: bool = False,
    data: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    seeds: int | None = None,
    models: Models = (),
    progress: Progress = silent,
    fresh: bool = False,
) -> Iterator[Result | NotRun]:
    """Run several experiments in order, and yield each as soon as it is there; options are those of `run`."""
    return Run(names, Options(quick, data, device, seeds, fresh), models).results(progress)


class Run:
    """Several experiments: which have a kept result, which are left out, and how long the others take.

    One that fails is told as `NotRun`; so is one that `quick` leaves out. Data go to those that take them, and models
    run those that take them alone.

    Raises:
        UsageError: there is no such experiment, none of them takes the data or the models, or options do not fit.
    """

    def __init__(self, names: str | int | Sequence[str | int], options: Options, models: Models = ()) -> None:
        chosen = find(names)
        networks = load_networks(models)
        alone = len(chosen) == 1
        self.without: tuple[Entry, ...] = ()  # that are left out, since they take no models
        self.with_data: tuple[Entry, ...] = ()
        if not alone:
            if networks:
                taking = taking_networks(chosen)
                self.without = tuple(entry for entry in chosen if entry not in taking) if taking else ()
                chosen = taking or chosen[:1]
            if options.data is not None:
                self.with_data = taking_data(chosen)
                if not self.with_data:
                    Job.of(chosen[0], options, networks, alone=True)  # says which take any
        self.jobs = [Job.of(entry, options, networks, alone=alone) for entry in chosen]
        check_data(self.jobs)
        self.kept = {job.entry.name: found for job in self.jobs if (found := job.kept()) is not None}

    @property
    def to_run(self) -> list[Job]:
        """The experiments that are measured."""
        return [job for job in self.jobs if job.entry.name not in self.kept and not job.left_out]

    @property
    def seconds(self) -> float:
        """About how long they take."""
        return sum(job.seconds for job in self.to_run)

    def results(self, progress: Progress = silent) -> Iterator[Result | NotRun]:
        """Each in order, as soon as it is there; `progress` counts seconds of all that is measured."""
        total, before = max(1, round(self.seconds)), 0.0
        for job in self.jobs:
            entry = job.entry
            if job.left_out:
                yield NotRun(entry.number, entry.name, job.left_out)
                continue
            if entry.name in self.kept:
                yield self.kept[entry.name]
                continue
            report = _part_of(progress, f"{entry.number} {entry.name}", before, job.seconds, total)
            report("", 0, None)
            if len(self.jobs) == 1:
                yield job.measured(report)
                return
            try:
                found: Result | NotRun = job.measured(report)
            except NotApplicableError as error:
                found = NotRun(entry.number, entry.name, str(error), applies=False)
            except VertebraError as error:
                found = NotRun(entry.number, entry.name, str(error), failed=True)
            except Exception as error:  # the others still run
                found = NotRun(entry.number, entry.name, f"{type(error).__name__}: {first_line(error)}", failed=True)
            before += job.seconds
            yield found


def _part_of(progress: Progress, name: str, before: float, seconds: float, total: int) -> Progress:
    """A `Progress` for one experiment that tells how far all are, in seconds. It never goes back."""
    furthest = before

    def report(task: str, done: int = 0, whole: int | None = None, /) -> None:
        nonlocal furthest
        if whole:
            furthest = max(furthest, before + seconds * min(1.0, done / whole))
        # Before the colon stands what the rate is of, and it stays.
        progress(f"seconds of experiments: {name}{', ' if task else ''}{task}", round(furthest), total)

    return report
