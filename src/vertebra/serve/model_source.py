"""The exported file of a MODEL argument; networks and functions are exported first.

`python -m vertebra.serve.model_source MODEL FOLDER` exports in a process of its own, since the server never imports
torch.
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


def resolve_exported_file(source: str, progress: Progress) -> Path:
    """The exported file that `source` names, or that of a run; a network or a function is exported by a subprocess."""
    # Reported at once: the command line prints warnings when a command ends, and a server does not end.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VertebraWarning)
        model = resolve_model(source, "serve")
        if model.kind is ModelKind.NETWORK:
            path = find_cached_export(model.name)
            if path is None:
                _ = model.network  # refuses an unknown name before a subprocess imports torch
        else:
            path = None if model.kind is ModelKind.FUNCTION else model.exported_file
    texts = list(dict.fromkeys(str(each.message) for each in caught if issubclass(each.category, VertebraWarning)))
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
    for text in dict.fromkeys(found["notes"]):
        if text not in texts:
            progress(text)
    return Path(found["path"])


def export_and_print(source: str, scratch: str) -> None:
    """Export, and print the file's path and its notes as one line of JSON."""
    from vertebra.loading import exported_file

    with capture_warnings() as texts:
        path = exported_file(resolve_model(source, "serve"), scratch=Path(scratch))
    sys.stdout.write(json.dumps({"path": os.fspath(path), "notes": texts}) + "\n")


if __name__ == "__main__":
    try:
        export_and_print(*sys.argv[1:])
    except VertebraError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
