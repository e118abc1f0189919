"""The file of a MODEL on the driver's machine, also of one on a remote file system."""

from __future__ import annotations

from pathlib import Path

from vertebra.cache import cache_dir, checksum, creation_lock
from vertebra.errors import VertebraError
from vertebra.files import atomic_write
from vertebra.loading import exported_file
from vertebra.model_argument import resolve_model
from vertebra.progress import Progress, silent
from vertebra.storage import Location


def model_file(model: str, weights: str = "DEFAULT", progress: Progress = silent) -> Path:
    """Return the exported file of a MODEL as `vertebra.load` takes it, or of `s3://bucket/model.onnx`.

    Raises:
        UsageError: it is none, or weights are given for a model that has weights.
        MissingExtraError: it has to be exported, and torch is not installed.
        VertebraError: it cannot be read or exported.
    """
    if "://" in model and (location := Location(model)).is_remote:
        model = str(_fetched(location, progress))
    return exported_file(resolve_model(model, "predict"), weights, progress)


def _fetched(location: Location, progress: Progress) -> Path:
    """Return the cached copy of this version of a remote file; its own checksum is verified where it is loaded."""
    version = checksum(location.uri, location.state().version).hex()
    path = cache_dir() / "models" / f"{version}-{location.name}"
    with creation_lock(path):
        if not path.exists():
            progress(f"fetching {location}")
            content = location.read_bytes()
            try:
                with atomic_write(path) as temporary:
                    temporary.write_bytes(content)
            except OSError as error:
                raise VertebraError(
                    f"{path} cannot be written ({error.strerror or error}). Set VERTEBRA_CACHE to another folder."
                ) from error
    return path
