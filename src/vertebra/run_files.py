"""Whether the files in the folder of a run are of that run. Standard library only."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vertebra.card import METADATA_KEY, Card, CardError, read_card
from vertebra.errors import UsageError
from vertebra.model_table import read_network_name

_MAX_HEADER_BYTES = 100_000_000  # of a safetensors file, as its format has it


def differences(file: Path, settings: Path, metrics: Path) -> list[str]:
    """Where the card of a run's file says something other than the run itself; what cannot be read says nothing.

    Args:
        file: the run's exported file or weights.
        settings: of the run, TOML.
        metrics: of the run, JSON.

    Returns:
        "network resnet18, of the run resnet50" and the like: network, classes, temperature.
    """
    card = _card(file)
    if card is None:
        return []
    network, kept = _toml(settings).get("model"), _json(metrics)
    found = []
    if isinstance(network, str) and _plain(network) != _plain(card.architecture):
        found.append(f"network {card.architecture}, of the run {network}")
    names, own = _class_names(kept), list(card.classes or ())
    if names and own and names != own:
        found.append(f"{_classes(own)}, of the run {_classes(names)}")
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
        return None  # who uses the file has the better word for what is wrong with it


def _toml(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _class_names(metrics: Mapping[str, Any]) -> list[str]:
    rows = metrics.get("classes")
    names = [row.get("name") for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [name for name in names if isinstance(name, str)]


def _classes(names: list[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', …' if names[3:] else ''})"


def _plain(network: str) -> str:
    """The network that a name stands for, also timm's; the name itself where that is none."""
    try:
        found = read_network_name(network)
    except UsageError:
        return network
    return found.timm if found.alias.options else found.alias.name
