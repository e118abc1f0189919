"""The models of a server by name: loaded in a thread of their own, and replaced when their files are."""

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

from .api_errors import ApiError
from .loaded_model import LoadedModel
from .model_source import exported_file_of
from .prometheus_metrics import Metrics
from .server_settings import ServerSettings

log = logging.getLogger("vertebra.serve")


class ServedModel:
    """A name, its file, and the version of it that is being served."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.current: LoadedModel | None = None
        self.error: str | None = None  # why the newest file is not being served
        self.checked_state: dict[str, int] | None = None  # of the newest file that was checked

    def read(self, value: Callable[[LoadedModel], float]) -> float:
        """A value of the version that is loaded; 0 where none is."""
        return 0 if self.current is None else value(self.current)


class ModelRegistry:
    """All models of a server. Loading and watching happen in a thread of its own.

    Raises:
        VertebraError: a file cannot be read or has no card; told before anything is loaded.
    """

    def __init__(self, settings: ServerSettings, progress: Progress = silent) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.models = {
            name: ServedModel(name, exported_file_of(source, progress)) for name, source in settings.named().items()
        }
        for served in self.models.values():
            read_card(served.path)
        self._add_gauges()
        self.default = next(iter(self.models))
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vertebra-models", daemon=True)
        self.failure: Exception | None = None  # why there is nothing to serve
        self.failed: Callable[[], None] = lambda: None  # is called then

    def start(self) -> ModelRegistry:
        """Load all models, then watch their files; nothing where that has begun."""
        if self._thread.ident is None:
            self._thread.start()
        return self

    def _add_gauges(self) -> None:
        values: tuple[tuple[str, str, Callable[[ServedModel], float]], ...] = (
            ("queue_images", "Images in the queue.", lambda it: it.read(lambda model: len(model.batcher))),
            (
                "queue_wait_seconds",
                "Expected wait of a new image.",
                lambda it: it.read(lambda model: model.batcher.queue_load.wait_seconds),
            ),
            ("busy_threads", "Busy worker threads.", lambda it: it.read(lambda model: model.batcher.num_busy)),
            (
                "model_current",
                "1 where the newest file is served, 0 where it was refused.",
                lambda it: it.read(lambda model: it.error is None),
            ),
        )
        for name, text, value in values:
            read = {name: partial(value, served) for name, served in self.models.items()}
            self.metrics.add_gauge(f"vertebra_{name}", text, read)

    @property
    def ready(self) -> bool:
        """Whether all models are loaded and warm."""
        return self._ready.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until they are."""
        return self._ready.wait(timeout)

    def get(self, name: str | None) -> LoadedModel:
        """A model by its name; None: the first.

        Raises:
            ApiError: 404, or 503 while it is being loaded.
        """
        served = self.models.get(name or self.default)
        if served is None:
            hint = suggest(str(name), self.models) or f"Served are {', '.join(self.models)}."
            raise ApiError(404, f"there is no model {str(name)[:100]!r}. {hint}")
        if served.current is None:
            raise ApiError(503, f"the model {served.name!r} is still being loaded.", {"Retry-After": "1"})
        return served.current

    def close(self) -> None:
        """Finish what is queued in all models."""
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
            self.failed()
            return
        self._ready.set()
        changing: dict[str, dict[str, int]] = {}
        while not self._stop.wait(self.settings.reload_seconds):
            for served in self.models.values():
                self._reload_if_changed(served, changing)

    def _load_first(self, served: ServedModel) -> None:
        """Load a model. In a method of its own: a local of `_watch`, which never returns, would keep it for good."""
        served.checked_state = change_state(served.path)
        start = time.perf_counter()
        served.current = loaded = LoadedModel(served.name, served.path, self.settings, self.metrics)
        log.info("%s: %s loaded in %.2f s, %s", served.name, served.path, time.perf_counter() - start, loaded.plan)

    def _reload_if_changed(self, served: ServedModel, changing: dict[str, dict[str, int]]) -> None:
        """Load a file that has changed, once it has stayed the same between two checks."""
        try:
            state = change_state(served.path)
        except OSError:
            state = {}  # being replaced, or gone
        if state == served.checked_state:
            changing.pop(served.name, None)
            return
        if changing.get(served.name) != state:
            changing[served.name] = state
            return
        served.checked_state = state
        if not state:
            served.error = f"{served.path} is gone."
            log.warning("%s: %s What was loaded from it is still served.", served.name, served.error)
            return
        try:
            new = LoadedModel(served.name, served.path, self.settings, self.metrics)
        except Exception as error:
            served.error = f"the new {served.path.name} is not served: {' '.join(str(error).split())}"
            self.metrics.count_reload(served.name, ok=False)
            log.error("%s: %s The previous one is still served.", served.name, served.error)
            trim_heaps()
            return
        old, served.current, served.error = served.current, new, None
        self.metrics.count_reload(served.name, ok=True)
        log.info("%s: %s has been replaced", served.name, served.path)
        if old is not None:
            # Requests that it has accepted are finished; none can come any more, for they ask for `current`.
            old.close()
            trim_heaps()
