"""The exported file behind what was given to serve: that of a network or a function is exported first.

`python -m vertebra.serve.model_source MODEL FOLDER` is the process that exports: it loads torch, which the server
never does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

from vertebra.cache import scratch_dir
from vertebra.errors import UsageError, VertebraError, VertebraWarning, capture_warnings
from vertebra.loading import find_cached_export
from vertebra.model_argument import ModelKind, resolve_model
from vertebra.progress import Progress


def exported_file_of(source: str, progress: Progress) -> Path:
    """The file that was given, or that of a run; that of a network or a function, exported first.

    By another process: exporting loads torch, which this one never does.
    """
    # Shown now: the command line prints warnings when a command ends, and this one runs for long.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", VertebraWarning)
        model = resolve_model(source, "serve")
        if model.kind is ModelKind.NETWORK:
            path = find_cached_export(model.name)
            if path is None:
                _ = model.network  # what is no network's name is refused before another process loads torch
        else:
            path = None if model.kind is ModelKind.FUNCTION else model.exported_file
    texts = list(dict.fromkeys(str(each.message) for each in told if issubclass(each.category, VertebraWarning)))
    for text in texts:
        progress(text)
    if path is not None:
        return path
    progress(f"exporting {source}, once")
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", __name__, source, os.fspath(scratch_dir())],
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
            progress(text)
    return Path(found["path"])


def export_here(source: str, scratch: str) -> None:
    """Export, and print where the file is and what is to be told of it, as one line of JSON."""
    from vertebra.loading import exported_file

    with capture_warnings() as texts:
        path = exported_file(resolve_model(source, "serve"), scratch=Path(scratch))
    sys.stdout.write(json.dumps({"path": os.fspath(path), "told": texts}) + "\n")


if __name__ == "__main__":
    try:
        export_here(*sys.argv[1:])
    except VertebraError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
