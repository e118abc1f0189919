"""Models that are being served: loaded, warmed up, and replaced when their files are."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vertebra.cache import change_state, scratch_dir
from vertebra.card import Card, read_card
from vertebra.decoding_notes import DecodingNotes
from vertebra.errors import UsageError, VertebraError, VertebraWarning, nearest
from vertebra.loading import kept_model
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.model_checksum import verify
from vertebra.pixels import Pixels
from vertebra.runtime.engines import OUTPUTS, PROBABILITIES, EngineError, FloatArray, Runner
from vertebra.runtime.predictor import Predictor
from vertebra.runtime.trial import trial_images
from vertebra.units import counted

from .anatomy import anatomy
from .batcher import Batcher
from .costs import Costs
from .decode import network_input
from .explain import Classifier, find_classifier, holds
from .graph import read_graph
from .memory import trim
from .metrics import Metrics
from .problems import ApiError
from .settings import Settings

log = logging.getLogger("vertebra.serve")

_WARM_UP = (1, 2, 4)  # images of a batch; the first of each size also makes the engine reserve its memory
_EXPORT = """
import json, os, sys, warnings
from pathlib import Path
from vertebra.loading import exported_file
from vertebra.errors import VertebraError, VertebraWarning
from vertebra.model_argument import resolve_model
try:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", VertebraWarning)
        path = exported_file(resolve_model(sys.argv[1], "serve"), scratch=Path(sys.argv[2]))
    texts = [str(each.message) for each in told if issubclass(each.category, VertebraWarning)]
    print(json.dumps({"path": os.fspath(path), "told": texts}))
except VertebraError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


class Loaded:
    """One version of a model's file, ready to predict; used until a newer one takes its place.

    What it holds is hundreds of megabytes, so no part of it may refer back to it: the last reference that goes frees
    all at once, where a reference cycle would wait for the garbage collector, which comes rarely to a server.
    """

    def __init__(self, name: str, path: Path, settings: Settings, metrics: Metrics) -> None:
        self.name = name
        self.path = path
        self.stamp = change_state(path)
        verify(path)  # at each load, whatever the cache says: it serves for long
        predictor = Predictor(path, engine=settings.engine)
        self.card: Card = predictor.card
        runner = predictor.runner(predictor.batch, tune=settings.tune)
        self.runner = runner
        self.plan = runner.plan
        self._trial = trial_images(self.card.preprocessing.crop_size, max(_WARM_UP))
        self.classes = self._checked()
        # A thread decodes and runs the network; a lane of several threads leaves the others of its cores to decoding.
        self.batcher = Batcher(
            partial(_finite, runner, name),
            partial(
                network_input,
                preprocessing=self.card.preprocessing,
                max_pixels=settings.max_pixels,
                notes=DecodingNotes(self.card.preprocessing.decoding, served=True),
            ),
            workers=runner.plan.lanes * runner.plan.threads,
            limit=settings.queue,
            costs=self._warm(),
            watch=metrics.watcher(name),
            name=name,
        )
        self.since = datetime.now(UTC).isoformat(timespec="seconds")
        self._described: tuple[Classifier | None, dict[str, Any] | None] | None = None
        self._describing = threading.Lock()

    def _checked(self) -> int:
        """The number of classes; a file that cannot predict, or not in numbers, is refused here."""
        (probabilities,) = _finite(self.runner, self.name, self._trial[:1], (PROBABILITIES,))
        if probabilities.ndim != 2:
            raise EngineError(f"{self.path} gives probabilities of shape {probabilities.shape}; it must be (N, K).")
        if self.card.classes is not None and len(self.card.classes) != probabilities.shape[1]:
            raise EngineError(
                f"{self.path} gives {probabilities.shape[1]} probabilities, and its card names "
                f"{counted(len(self.card.classes), 'class')}. Export the network again."
            )
        return int(probabilities.shape[1])

    def _warm(self) -> Costs:
        """What batches cost: the second run of each size counts."""
        costs = Costs(self.plan.micro_batch)
        for size in _WARM_UP:
            for turn in range(2):
                start = time.perf_counter()
                _finite(self.runner, self.name, self._trial[:size], (PROBABILITIES,))
                seconds = time.perf_counter() - start
                if turn:
                    costs.warm(size, seconds)
        return costs

    @property
    def classifier(self) -> Classifier | None:
        """What class-activation maps are made with; None where the network does not end in pooling and one layer."""
        return self._describe()[0]

    @property
    def anatomy(self) -> dict[str, Any] | None:
        """The stages as its file has them; None where it cannot be told."""
        return self._describe()[1]

    @property
    def explains_by(self) -> Literal["activation", "occlusion"]:
        """How `explain` finds where a class was seen."""
        return "occlusion" if self.classifier is None else "activation"

    def _describe(self) -> tuple[Classifier | None, dict[str, Any] | None]:
        """Read the graph, once; takes some hundredths of a second."""
        with self._describing:
            if self._described is None:
                self._described = self._read()
            return self._described

    def _read(self) -> tuple[Classifier | None, dict[str, Any] | None]:
        try:
            graph = read_graph(self.path)
            classifier = find_classifier(graph)
            if change_state(self.path) != self.stamp:
                return None, None  # a newer file is there already, and will be loaded
            if classifier is not None:
                _, embedding, features = self.runner.call(self._trial[1:2], OUTPUTS)
                if not holds(classifier, features[0], embedding[0]):
                    classifier = None
            return classifier, anatomy(graph, self.card.preprocessing.crop_size)
        except Exception:
            # The server predicts all the same.
            log.exception("the graph of %s cannot be described", self.path)
            return None, None

    def close(self) -> None:
        """Finish what waits, then free the network: a request that still names this model must not keep it."""
        self.batcher.close()
        self.runner.close()


def _finite(runner: Runner, name: str, pixels: Pixels, outputs: Sequence[str]) -> list[FloatArray]:
    """The named outputs of the network.

    Raises:
        EngineError: NaN or infinite values, which would poison all that is computed of them, and are no JSON.
    """
    values = runner.call(pixels, outputs)
    for value in values:
        if not np.isfinite(value).all():
            raise EngineError(f"the model {name!r} gives values that are no numbers: its weights are damaged.")
    return values


class Hosted:
    """A name, its file, and the version of it that is being served."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.current: Loaded | None = None
        self.error: str | None = None  # why the newest file is not being served
        self.seen: dict[str, int] | None = None  # the newest file that has been looked at


class Shelf:
    """All models of a server. Loading and watching happen in a thread of its own.

    Raises:
        VertebraError: a file cannot be read or has no card; told before anything is loaded.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None] = lambda what: None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.models = {name: Hosted(name, _file_of(source, tell)) for name, source in settings.named().items()}
        for hosted in self.models.values():
            read_card(hosted.path)
        self.default = next(iter(self.models))
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vertebra-models", daemon=True)
        self.failure: Exception | None = None  # why there is nothing to serve
        self.failed: Callable[[], None] = lambda: None  # is called then

    def start(self) -> Shelf:
        """Load everything, then look for new files."""
        self._thread.start()
        return self

    @property
    def ready(self) -> bool:
        """Whether all models are loaded and warm."""
        return self._ready.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Until they are."""
        return self._ready.wait(timeout)

    def get(self, name: str | None) -> Loaded:
        """A model by its name; None: the first.

        Raises:
            ApiError: 404, or 503 while it is being loaded.
        """
        hosted = self.models.get(name or self.default)
        if hosted is None:
            hint = nearest(str(name), self.models) or f"Served are {', '.join(self.models)}."
            raise ApiError(404, f"there is no model {str(name)[:100]!r}. {hint}")
        if hosted.current is None:
            raise ApiError(503, f"the model {hosted.name!r} is still being loaded.", {"Retry-After": "1"})
        return hosted.current

    def close(self) -> None:
        """Finish what waits in all models."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for hosted in self.models.values():
            if hosted.current is not None:
                hosted.current.close()

    # --- in its thread ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        try:
            for hosted in self.models.values():
                self._first(hosted)
        except Exception as error:
            self.failure = error
            self.failed()
            return
        self._ready.set()
        for hosted in self.models.values():
            if hosted.current is not None:
                hosted.current._describe()
        changing: dict[str, dict[str, int]] = {}
        while not self._stop.wait(self.settings.reload_seconds):
            for hosted in self.models.values():
                self._look(hosted, changing)

    def _first(self, hosted: Hosted) -> None:
        """Load a model. In a method of its own: a local of `_watch`, which never returns, would keep it for good."""
        hosted.seen = change_state(hosted.path)
        start = time.perf_counter()
        hosted.current = loaded = Loaded(hosted.name, hosted.path, self.settings, self.metrics)
        log.info("%s: %s loaded in %.2f s, %s", hosted.name, hosted.path, time.perf_counter() - start, loaded.plan)

    def _look(self, hosted: Hosted, changing: dict[str, dict[str, int]]) -> None:
        """Load a file that is another than before, once it has stayed the same between two looks."""
        try:
            stamp = change_state(hosted.path)
        except OSError:
            stamp = {}  # being replaced, or gone
        if stamp == hosted.seen:
            changing.pop(hosted.name, None)
            return
        if changing.get(hosted.name) != stamp:
            changing[hosted.name] = stamp
            return
        hosted.seen = stamp
        if not stamp:
            hosted.error = f"{hosted.path} is gone."
            log.warning("%s: %s What was loaded from it serves on.", hosted.name, hosted.error)
            return
        try:
            new = Loaded(hosted.name, hosted.path, self.settings, self.metrics)
        except Exception as error:
            hosted.error = f"the new {hosted.path.name} is not served: {' '.join(str(error).split())}"
            self.metrics.reloaded(hosted.name, ok=False)
            log.error("%s: %s The one before serves on.", hosted.name, hosted.error)
            trim()
            return
        old, hosted.current, hosted.error = hosted.current, new, None
        self.metrics.reloaded(hosted.name, ok=True)
        log.info("%s: %s has been replaced", hosted.name, hosted.path)
        if old is not None:
            # Requests that it has accepted are finished; none can come any more, for they ask for `current`.
            old.close()
            trim()
        new._describe()


def _file_of(source: str, tell: Callable[[str], None]) -> Path:
    """The file that was given, or that of a run; that of a network or a function, exported first.

    By another process: exporting loads torch, which this one never does.
    """
    # What is told is told now: warnings are shown when a command ends, and this one runs for long.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", VertebraWarning)
        model = resolve_model(source, "serve")
        if model.kind is ModelKind.NETWORK:
            path = kept_model(model.name)
            if path is None:
                _ = model.network  # what is no network's name is refused before another process loads torch
        else:
            path = None if model.kind is ModelKind.FUNCTION else model.exported_file
    texts = list(dict.fromkeys(str(each.message) for each in told if issubclass(each.category, VertebraWarning)))
    for text in texts:
        tell(text)
    if path is not None:
        return path
    tell(f"exporting {source}, once")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", _EXPORT, source, os.fspath(scratch_dir())],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["the export failed"])[-1]
        raise (UsageError if done.returncode == UsageError.exit_code else VertebraError)(reason)
    found = json.loads(done.stdout.splitlines()[-1])
    for text in dict.fromkeys(found["told"]):
        if text not in texts:
            tell(text)
    return Path(found["path"])
