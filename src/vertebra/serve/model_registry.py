"""The models of a server by name; a thread loads them and reloads files that change."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vertebra.cache import change_state
from vertebra.card import read_card
from vertebra.errors import suggest
from vertebra.malloc import trim_heaps
from vertebra.progress import Progress, silent
from vertebra.storage import Location, StorageError, local_copy

from .api_errors import ApiError
from .loaded_model import LoadedModel
from .model_source import resolve_exported_file
from .prometheus_metrics import Metrics
from .server_settings import ServerSettings

log = logging.getLogger("vertebra.serve")


class ServedModel:
    """A name with its file and the loaded version of it."""

    def __init__(self, name: str, path: Path, location: Location | None = None) -> None:
        self.name = name
        self.path = path
        self.location = location  # of a remote file, of which `path` is the newest copy
        self.current: LoadedModel | None = None
        self.error: str | None = None  # why the newest file is not served
        self.checked_state: dict[str, int] | None = None  # of the file that was loaded or refused last

    @property
    def place(self) -> str:
        """What people know the file by: its path or address."""
        return str(self.location or self.path)

    def read_gauge(self, value: Callable[[LoadedModel], float]) -> float:
        """A value of the loaded version; 0 if none is loaded."""
        return 0 if self.current is None else value(self.current)


class ModelRegistry:
    """All models of a server, loaded and watched by a thread.

    Raises:
        VertebraError: a file cannot be read or has no card; raised before any model is loaded.
    """

    def __init__(self, settings: ServerSettings, progress: Progress = silent) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.models = {
            name: ServedModel(
                name,
                resolve_exported_file(source, progress),
                Location(source) if Location(source).is_remote else None,
            )
            for name, source in settings.sources_by_name().items()
        }
        for served in self.models.values():
            read_card(served.path)
        self._add_gauges()
        self.default = next(iter(self.models))
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vertebra-models", daemon=True)
        self.failure: Exception | None = None  # why a model could not be loaded at the start
        self.on_failure: Callable[[], None] = lambda: None

    def start(self) -> ModelRegistry:
        """Start to load all models and to watch their files, unless that has been started."""
        if self._thread.ident is None:
            self._thread.start()
        return self

    def _add_gauges(self) -> None:
        values: tuple[tuple[str, str, Callable[[ServedModel], float]], ...] = (
            ("queue_images", "Images in the queue.", lambda it: it.read_gauge(lambda model: len(model.batcher))),
            (
                "queue_wait_seconds",
                "Expected wait of a new image.",
                lambda it: it.read_gauge(lambda model: model.batcher.queue_load.wait_seconds),
            ),
            ("busy_threads", "Busy worker threads.", lambda it: it.read_gauge(lambda model: model.batcher.num_busy)),
            (
                "model_current",
                "1 where the newest file is served, 0 where it was refused.",
                lambda it: it.read_gauge(lambda model: it.error is None),
            ),
        )
        for name, text, value in values:
            read = {name: partial(value, served) for name, served in self.models.items()}
            self.metrics.add_gauge(f"vertebra_{name}", text, read)

    @property
    def is_ready(self) -> bool:
        """Whether all models are loaded and warmed up."""
        return self._ready.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `is_ready`, and return it."""
        return self._ready.wait(timeout)

    def get(self, name: str | None) -> LoadedModel:
        """A model by name; by default the first.

        Raises:
            ApiError: 404 there is none of that name, 503 it is still being loaded.
        """
        served = self.models.get(name or self.default)
        if served is None:
            hint = suggest(str(name), self.models) or f"Available: {', '.join(self.models)}."
            raise ApiError(404, f"there is no model {str(name)[:100]!r}. {hint}")
        if served.current is None:
            raise ApiError(503, f"the model {served.name!r} is still being loaded.", {"Retry-After": "1"})
        return served.current

    def close(self) -> None:
        """Finish the queued images of all models, and free them."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for served in self.models.values():
            if served.current is not None:
                served.current.close()

    def _watch(self) -> None:
        try:
            for served in self.models.values():
                self._load_first(served)
        except Exception as error:
            self.failure = error
            self.on_failure()
            return
        self._ready.set()
        for served in self.models.values():
            if served.location is not None:
                # Not joined in the end: remote storage may be slow.
                threading.Thread(
                    target=watch_remote_file,
                    args=(served, served.location, self._stop, self.settings.reload_seconds),
                    daemon=True,
                ).start()
        unsettled: dict[str, dict[str, int]] = {}
        while not self._stop.wait(self.settings.reload_seconds):
            for served in self.models.values():
                self._reload_if_changed(served, unsettled)

    def _load_first(self, served: ServedModel) -> None:
        """Load a model. A local variable of `_watch`, which does not return, would keep it in memory."""
        served.checked_state = change_state(served.path)
        start = time.perf_counter()
        served.current = loaded = LoadedModel(served.name, served.path, self.settings, self.metrics)
        log.info("%s: %s loaded in %.2f s, %s", served.name, served.place, time.perf_counter() - start, loaded.plan)

    def _reload_if_changed(self, served: ServedModel, unsettled: dict[str, dict[str, int]]) -> None:
        """Load a changed file once two checks have found it in the same state, which `unsettled` remembers."""
        path = served.path  # `watch_remote_file` sets another
        try:
            state = change_state(path)
        except OSError:
            if served.location is not None:
                return  # a copy may be deleted to make room for others
            state = {}  # being replaced, or gone
        if state == served.checked_state:
            unsettled.pop(served.name, None)
            return
        if unsettled.get(served.name) != state:
            unsettled[served.name] = state
            return
        served.checked_state = state
        if not state:
            served.error = f"{served.path} is gone."
            log.warning("%s: %s The previous one is still served.", served.name, served.error)
            return
        try:
            new = LoadedModel(served.name, path, self.settings, self.metrics)
        except Exception as error:
            served.error = f"the new {path.name} is not served: {' '.join(str(error).split())}"
            self.metrics.count_reload(served.name, ok=False)
            log.error("%s: %s The previous one is still served.", served.name, served.error)
            trim_heaps()
            return
        old, served.current, served.error = served.current, new, None
        self.metrics.count_reload(served.name, ok=True)
        log.info("%s: %s has been replaced", served.name, served.place)
        if old is not None:
            # Its accepted requests are finished; new ones use `current`.
            old.close()
            trim_heaps()


def watch_remote_file(served: ServedModel, location: Location, stop: threading.Event, seconds: float) -> None:
    """Keep `served.path` the copy of the newest version of the remote file at `location`, until `stop` is set.

    While its storage cannot be reached, or the file is gone, the previous one is served; this is told once.
    """
    gone = f"{location} is gone."
    told: str | None = None
    while not stop.wait(seconds):
        try:
            path = local_copy(location)
        except StorageError as error:
            kind = "missing" if error.is_missing else "away"
            if error.is_missing:
                served.error = gone
            if told != kind:
                log.warning(
                    "%s: %s The previous one is still served.", served.name, gone if error.is_missing else error
                )
            told = kind
            continue
        if told is not None:
            log.info("%s: %s can be read again", served.name, location)
            if served.error == gone and path == served.path:
                served.error = None
        told = None
        served.path = path
