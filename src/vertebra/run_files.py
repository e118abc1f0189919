"""The files in the folder of a run, for a run that is given as MODEL. Standard library only."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.card import METADATA_KEY, Card, CardError, read_card
from vertebra.errors import UsageError, warn

# Files in the folder of a run.
RUN_MODEL, RUN_METRICS, RUN_SETTINGS, RUN_WEIGHTS = (
    "model.onnx",
    "metrics.json",  # written last, which marks the run as finished
    "settings.toml",
    "weights.safetensors",
)

_MAX_HEADER_BYTES = 100_000_000  # limit of the safetensors format


def resume_command(run: Path) -> str:
    """Return the command that resumes a run."""
    return f"vertebra train --resume {shlex.quote(str(run))}"


def run_model(run: Path) -> Path:
    """Return the exported file of a run; a `UsageError` if it is missing, a `CardError` if it is empty."""
    path, has_weights = run / RUN_MODEL, (run / RUN_WEIGHTS).is_file()
    export = f"Export its weights: vertebra export {shlex.quote(str(run))} --out {shlex.quote(str(path))}"
    if path.is_file():
        if has_weights and path.stat().st_size == 0:
            raise CardError(f"{path} is empty. {export}")
        _warn_if_unfinished(run)
        _warn_if_different(run, path)
        return path
    if has_weights:
        raise UsageError(f"the run {run} has no {RUN_MODEL}. {export}")
    raise _missing_file_error(run, RUN_MODEL)


def run_weights(run: Path) -> Path:
    """Return the weight file of a run; a `UsageError` if it is missing."""
    path = run / RUN_WEIGHTS
    if path.is_file():
        _warn_if_unfinished(run)
        _warn_if_different(run, path)
        return path
    if (run / RUN_MODEL).is_file():
        settings = run / RUN_SETTINGS
        again = f" For weights, train again: vertebra train --config {shlex.quote(str(settings))} --out AGAIN"
        raise UsageError(
            f"the run {run} has no {RUN_WEIGHTS}: an older Vertebra made it, or the file was removed. It still "
            f"predicts; its exported file is {run / RUN_MODEL}.{again if settings.is_file() else ''}"
        )
    raise _missing_file_error(run, RUN_WEIGHTS)


def _warn_if_unfinished(run: Path) -> None:
    if (run / RUN_SETTINGS).is_file() and not (run / RUN_METRICS).is_file():
        warn(
            f"the run {run} has not written its report yet; its classifier is used. To finish it: {resume_command(run)}"
        )


def _warn_if_different(run: Path, path: Path) -> None:
    """Warn if the file was made by another run."""
    if found := _differences(path, run):
        weights = run / RUN_WEIGHTS
        again = ""
        if path != weights and weights.is_file() and not _differences(weights, run):
            again = f" Its own is made with: vertebra export {shlex.quote(str(run))} --out {shlex.quote(str(path))}"
        warn(f"{path} is not as the run {run} made it: {'; '.join(found)}. It is used all the same.{again}")


def _missing_file_error(run: Path, name: str) -> UsageError:
    if (run / RUN_METRICS).is_file() or not (run / RUN_SETTINGS).is_file():
        return UsageError(f"the run {run} is finished, and its {name} is missing. Put it back, or start a new run.")
    return UsageError(f"the run {run} is not finished. Resume with: {resume_command(run)}")


def _differences(file: Path, run: Path) -> list[str]:
    """List what in a file's card differs from its run, such as "network resnet18, of the run resnet50"."""
    card = _card(file)
    if card is None:
        return []
    network, kept = _read_toml(run / RUN_SETTINGS).get("model"), read_json(run / RUN_METRICS) or {}
    found = []
    if isinstance(network, str) and _canonical_name(network) != _canonical_name(card.architecture):
        found.append(f"network {card.architecture}, of the run {network}")
    names, own = _class_names(kept), list(card.classes or ())
    if names and own and names != own:
        found.append(f"{_describe_classes(own)}, of the run {_describe_classes(names)}")
    temperature = kept.get("temperature")
    if isinstance(temperature, float) and temperature != card.temperature and not found:
        found.append(f"temperature {card.temperature:.6g}, of the run {temperature:.6g}")
    return found


def _card(file: Path) -> Card | None:
    try:
        if file.suffix == ".onnx":
            return read_card(file)
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if length < _MAX_HEADER_BYTES else {}
        return Card.from_json(header["__metadata__"][METADATA_KEY], str(file))
    except (OSError, ValueError, LookupError, TypeError, RecursionError, CardError):
        return None  # whatever reads the file next has a better error


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # imported only for runs

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object from a file of a run; None if it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _class_names(metrics: Mapping[str, Any]) -> list[str]:
    rows = metrics.get("classes")
    names = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [name for name in names if isinstance(name, str)]


def _describe_classes(names: list[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' if names[3:] else ''})"


def _canonical_name(network: str) -> str:
    """Resolve a network name, also timm's; an unknown name is returned unchanged."""
    from vertebra.model_table import read_network_name  # loads a table of all networks

    try:
        found = read_network_name(network)
    except UsageError:
        return network
    return found.timm if found.alias.options else found.alias.name
