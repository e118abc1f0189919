"""`vertebra.load`: a file, or a network's name, → something that predicts."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from vertebra import __version__
from vertebra.cache import cache_dir, creation_lock, fingerprint, read_sidecar, scratch_dir, write_sidecar
from vertebra.errors import MissingExtraError, UsageError, VertebraError, capture_warnings, require_extra, warn
from vertebra.files import atomic_write
from vertebra.model_argument import ModelArgument, ModelKind, resolve_model
from vertebra.preprocessing import DECODING_VERSION
from vertebra.progress import Progress, silent
from vertebra.runtime.predictor import Predictor


def load(
    model: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "DEFAULT",
    progress: Progress = silent,
    **options: Any,
) -> Predictor:
    """Load a model for prediction, without torch.

    Args:
        model: a file that `vertebra export` wrote, the folder of a run, a name that `vertebra models` lists, or
            "FILE.py:FUNCTION" for your own network. A name is exported into the cache once, which needs torch; later
            calls run the cached file without torch.
        weights: for a name: "DEFAULT", the name of published weights, or a .pth or .safetensors file.
        progress: called with what is being done where that takes seconds.
        options: as `vertebra.runtime.predictor.Predictor` takes them (engine, batch, threads, …).

    Raises:
        UsageError: an argument is not allowed, or there is no such network.
        MissingExtraError: a name has not been exported yet, and torch is not installed.
        VertebraError: the file or the weights cannot be used.
    """
    return Predictor(exported_file(resolve_model(model, "predict"), weights, progress), progress=progress, **options)


def exported_file(
    model: ModelArgument,
    weights: str | os.PathLike[str] = "DEFAULT",
    progress: Progress = silent,
    *,
    scratch: Path | None = None,
) -> Path:
    """Return the exported file of a MODEL: the given one, a run's, a named network's in the cache, or a new export.

    The options are those of `load`; `scratch` is the folder for files outside the cache (None: one of this process).

    Raises:
        UsageError: weights are given for a model that has weights, or a run has no exported file.
        MissingExtraError: the model has to be exported, and torch is not installed.
        VertebraError: the export failed.
    """
    if model.kind is ModelKind.NETWORK:
        kept = find_cached_export(model.name) if os.fspath(weights) == "DEFAULT" else None
        return kept or cached_export(model.network, model.weights(os.fspath(weights)), progress, scratch=scratch)
    if os.fspath(weights) != "DEFAULT":
        raise UsageError(
            f"{model.given} already has weights, so weights={os.fspath(weights)!r} cannot be used. Leave weights out."
        )
    if model.kind is not ModelKind.FUNCTION:
        return model.exported_file
    with require_extra("torch", f"predicting with the network of a function ({model.given!r})"):
        import torch  # noqa: F401

        from vertebra.export import prepare
        from vertebra.export.prepare_module import PreprocessingError
    network = model.call()
    try:
        prepared = prepare(network)
    except PreprocessingError as error:
        raise UsageError(
            f"{model.given}: {error.fault} Export it first, with the values that it was trained with: vertebra export "
            f"{shlex.quote(model.given)} --size 224 --mean 0.5 --std 0.5 --out {model.name}.onnx. Or let the function "
            "set the network's attribute preprocessing = vertebra.Preprocessing(…)."
        ) from error
    except UsageError as error:
        raise UsageError(f"{model.given}: {error}") from error
    progress(f"exporting {model.given} for this run only")
    import tempfile

    path = Path(tempfile.mkdtemp(dir=scratch or scratch_dir()), f"{model.name}.onnx")
    _export(prepared, path)
    return path


def cached_export(
    name: str,
    weights: str | os.PathLike[str],
    progress: Progress = silent,
    *,
    scratch: Path | None = None,
) -> Path:
    """Return a named network's file in the cache; export it if it is missing or damaged.

    If the cache is not writable, warn and export to the folder `scratch` (None: one of this process).
    """
    path = cached_export_path(name, weights)
    if path is None:
        _prepare(name, weights)  # its error says more
        raise UsageError(f"{name!r} with the weights {os.fspath(weights)!r} cannot be kept in the cache.")
    if _is_cached(path, weights):
        return path
    with creation_lock(path, lambda: progress(f"waiting for another process to export {name}")):
        if _is_cached(path, weights):  # exported while this process waited
            return path
        with capture_warnings() as texts:
            prepared = _prepare(name, weights)
        progress(f"exporting {name}, once")
        try:
            _export(prepared, path)
        except (OSError, VertebraError) as error:
            reason = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(reason, OSError):
                raise
            warn(
                f"{path} cannot be written ({(reason.strerror or str(reason)).lower()}), so {name} is exported for "
                "this run only. Set VERTEBRA_CACHE to another folder."
            )
            path = (scratch or scratch_dir()) / path.name
            try:
                _export(prepared, path)
            except OSError as error:
                raise VertebraError(f"{path} cannot be written either ({error.strerror or error}).") from error
        write_sidecar(path, {"weights": os.fspath(weights), "told": texts})
    return path


def _prepare(name: str, weights: str | os.PathLike[str]) -> Any:
    try:
        with require_extra(
            "torch", f"predicting with a name ({name!r}) rather than a file that `vertebra export` wrote"
        ):
            import torch  # noqa: F401 - before a package that would name itself

            from vertebra.export import prepare
    except MissingExtraError:
        from vertebra.model_table import find_network

        find_network(name)  # its error says more
        raise
    return prepare(name, weights=os.fspath(weights))


def _export(prepared: Any, path: Path) -> None:
    from vertebra.export import export

    # Without the time every export gives the same file, so that a result file can be resumed with it.
    prepared = replace(prepared, card=replace(prepared.card, created=None))
    with atomic_write(path) as temporary:
        temporary.unlink()  # the export refuses to replace a file that is not a network
        export(prepared, temporary)


def _is_cached(path: Path, weights: str | os.PathLike[str]) -> bool:
    """Whether the cached file is intact; if so, repeat the warnings of its export."""
    kept = read_sidecar(path)
    if kept is None:
        return False
    for text in kept["told"]:
        warn(text.replace(f"'{kept['weights']}'", f"'{os.fspath(weights)}'"))  # the same file under another path
    return True


def find_cached_export(name: str) -> Path | None:
    """The cached file of a named network, or None."""
    path = cached_export_path(name)
    # A name with one of timm's tags has other weights.
    return path if path is not None and name.isidentifier() and _is_cached(path, "DEFAULT") else None


def cached_export_path(name: str, weights: str | os.PathLike[str] = "DEFAULT") -> Path | None:
    """The cache path of a named network's exported file; None if the name cannot be a network's."""
    weights = os.fspath(weights)
    given = Path(weights)
    label = fingerprint(given)[:16] if given.is_file() else weights
    if not all(re.fullmatch(r"[\w.]+", part) for part in (name, label)):
        return None
    return cache_dir() / "models" / f"{name}-{label}-{__version__}-{DECODING_VERSION}.onnx"
