"""`vertebra.load`: a file, or a network's name, → something that predicts."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
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
    """Make a network ready to predict, without torch.

    Args:
        model: a file that `vertebra export` wrote, the folder of a run, a name that `vertebra models` lists, or
            "FILE.py:FUNCTION" for a network of one's own. A name is exported once into the cache, which needs torch,
            and runs from there ever after, which does not.
        weights: for a name: "DEFAULT", the name of published weights, or a .pth or .safetensors file.
        progress: called with what is being done where that takes seconds.
        options: as `vertebra.runtime.predictor.Predictor` takes them (engine, batch, threads, …).

    Raises:
        UsageError: an argument is not allowed, or there is no such network.
        MissingExtraError: a name has not been exported yet, and torch is not installed.
        VertebraError: the file, or the weights, cannot be used; says why.
    """
    return Predictor(exported_file(resolve_model(model, "predict"), weights, progress), progress=progress, **options)


def exported_file(
    model: ModelArgument,
    weights: str | os.PathLike[str] = "DEFAULT",
    progress: Progress = silent,
    *,
    scratch: Path | None = None,
) -> Path:
    """The exported file of a MODEL: the given one, a run's, a named network's in the cache, a function's made anew.

    Options are those of `load`; `scratch` is a folder for what the cache does not keep (None: one of this process).

    Raises:
        UsageError: weights for what has its own, or a run without a file.
        MissingExtraError: it has to be exported, and torch is not installed.
        VertebraError: it cannot be exported; says why.
    """
    if model.kind is ModelKind.NETWORK:
        kept = find_cached_export(model.name) if os.fspath(weights) == "DEFAULT" else None
        return kept or cached_export(model.network, model.weights(os.fspath(weights)), progress, scratch=scratch)
    if os.fspath(weights) != "DEFAULT":
        raise UsageError(
            f"{model.given} has its own weights, so weights={os.fspath(weights)!r} is one too many. Leave one out."
        )
    if model.kind is not ModelKind.FUNCTION:
        return model.exported_file
    with require_extra("torch", f"predicting with a network of one's own ({model.given!r})"):
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
    progress(f"exporting {model.given}, for this run alone")
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
    """The file of a named network in the cache, exported if it is missing or damaged; raises as the export does.

    Where the cache cannot be written, a warning says so, and it is in the folder `scratch` (None: one of this process).
    """
    path = cached_export_path(name, weights)
    if path is None:
        _prepare(name, weights)  # its error says more
        raise UsageError(f"{name!r} with the weights {os.fspath(weights)!r} cannot be kept in the cache.")
    if _is_kept(path, weights):
        return path
    with creation_lock(path, lambda: progress(f"waiting for another process that exports {name}")):
        if _is_kept(path, weights):  # made while this process waited
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
                "this run alone. VERTEBRA_CACHE names another folder."
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

    # Without the time the file is the same whenever it is made again, and results that it made can be gone on with.
    prepared = replace(prepared, card=replace(prepared.card, created=None))
    with atomic_write(path) as temporary:
        temporary.unlink()  # the export refuses to replace a file that is no network
        export(prepared, temporary)


def _is_kept(path: Path, weights: str | os.PathLike[str]) -> bool:
    """Whether a file in the cache is as it was made; the warnings of its export are repeated."""
    kept = read_sidecar(path)
    if kept is None:
        return False
    for text in kept["told"]:
        warn(text.replace(f"'{kept['weights']}'", f"'{os.fspath(weights)}'"))  # of another place, with this content
    return True


def find_cached_export(name: str) -> Path | None:
    """The file of a named network where it is in the cache; None where it has to be exported."""
    path = cached_export_path(name)
    # A name with a tag, as timm has them, is of other weights.
    return path if path is not None and name.isidentifier() and _is_kept(path, "DEFAULT") else None


def cached_export_path(name: str, weights: str | os.PathLike[str] = "DEFAULT") -> Path | None:
    """The path in the cache of a named network's exported file; None for what can be no network's name."""
    weights = os.fspath(weights)
    given = Path(weights)
    label = fingerprint(given)[:16] if given.is_file() else weights
    if not all(re.fullmatch(r"[\w.]+", part) for part in (name, label)):
        return None
    return cache_dir() / "models" / f"{name}-{label}-{__version__}-{DECODING_VERSION}.onnx"
