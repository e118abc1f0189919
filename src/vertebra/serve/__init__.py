"""An exported classifier behind HTTP, with a page for people. Never torch.

`vertebra serve MODEL.onnx`, or `vertebra.serve("model.onnx")`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vertebra.callable_module import make_callable
from vertebra.errors import require_extra
from vertebra.malloc import limit_heaps
from vertebra.progress import Progress, silent

from .server_settings import ServerSettings as ServerSettings


def serve(*models: str, progress: Progress = silent, **options: Any) -> None:
    """Serve classifiers over HTTP until SIGINT or SIGTERM.

    Args:
        models: exported files, `NAME=FILE.onnx`, or names that `vertebra models` lists, which are exported first.
        progress: called with a line of text for each long step and for the address.
        options: fields of `ServerSettings` (host, port, api_key, timeout, …).

    Raises:
        UsageError: a setting is not allowed, or the address is taken.
        VertebraError: a model cannot be loaded.
        MissingExtraError: FastAPI and uvicorn are not installed.
    """
    with suppress(KeyboardInterrupt):  # uvicorn raises it after the shutdown
        run(ServerSettings(models=tuple(map(str, models)), **options), progress)


def run(settings: ServerSettings, progress: Progress = silent) -> None:
    """Serve with these settings. Raises what `serve` raises."""
    settings.check()
    limit_heaps()
    with _excluded_from_gc():
        with require_extra("serve", "vertebra serve"):
            from .model_registry import ModelRegistry

            # The registry's thread loads the engine while this one imports the web framework.
            registry = ModelRegistry(settings, progress).start()
        try:
            with require_extra("serve", "vertebra serve"):
                from .server import Server
            service = Server(settings, registry)
        except BaseException:
            registry.close()  # a thread that is still loading would abort the process at exit (code 134)
            raise
    progress(f"listening on {service.url}")
    service.run()


@contextmanager
def _excluded_from_gc() -> Iterator[None]:
    """Exclude the objects created in the block from garbage collection.

    Scanning hundreds of thousands of them takes a tenth of the start, and later would delay requests.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


make_callable(__name__)
