"""The card of an exported network: classes, preprocessing, metrics, provenance; read from the ONNX file's metadata.

Training, export, the runtime and the server read the same record, so that a deployed network gets the pixels it was
trained on. In the file it is JSON under `METADATA_KEY`. Standard library only.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field
from dataclasses import fields as fields_of
from pathlib import Path
from typing import IO, Any, TypeAlias

from vertebra.errors import VertebraError, printable, shortened
from vertebra.preprocessing import BITS, CROP_MODES, DECODING_VERSION, INTERPOLATIONS, MAX_RESIZED_PIXELS
from vertebra.preprocessing import Decoding as Decoding
from vertebra.preprocessing import Preprocessing as Preprocessing
from vertebra.protobuf import Span, iter_fields, read_content, require_span
from vertebra.strict_json import loads

METADATA_KEY = "vertebra.card"
FORMAT_VERSION = 3  # the newest that can be read; `Card.format_version` is what a card is written in
PRECISIONS = ("float32", "int8")

MAX_SIDE = math.isqrt(MAX_RESIZED_PIXELS)  # of a square input
_MAX_DEPTH = 20  # current cards are nested 4 deep


class CardError(VertebraError):
    """A model file or a document has no card that this version of Vertebra can read."""


@dataclass(frozen=True)
class WeightSource:
    """Where the weights came from: a published name or a file's name, its SHA-256 (64 hex digits) and its address."""

    name: str
    sha256: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        # A card is Unicode, and the name of a file is any bytes.
        object.__setattr__(self, "name", printable(self.name))


@dataclass(frozen=True)
class Card:
    """The description of an exported network.

    The graph includes normalisation, temperature and softmax: a client applies only resize and crop of `preprocessing`,
    and the other values are informative.
    """

    architecture: str
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None = None  # in the order of the probabilities; None: classes are numbers
    weights: WeightSource | None = None  # None: random weights
    metrics: Mapping[str, Any] = field(default_factory=dict)  # data set -> measure -> value
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version that the file was made with
    licence: str | None = None  # of the weights
    precision: str = "float32"  # or "int8"
    created: str | None = None  # ISO 8601, UTC
    temperature: float = 1.0
    threshold: float | None = None  # below it, the top class is "unsure"
    format_version: int = 1  # the oldest format whose readers predict the same
    # SHA-256 of the file with zeros in place of these digits (`model_checksum`). Must be last. Not compared.
    content_sha256: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # Readers of format 1 ignore `bits`: 12-bit photos would be nearly black. Those of format 2 ignore `crop_mode`.
        needed = 1 if self.preprocessing.decoding.bits is None else 2
        needed = needed if self.preprocessing.crop_mode == "center" else 3
        object.__setattr__(self, "format_version", max(self.format_version, needed))

    def class_name(self, index: int) -> str:
        """The name of a class, or its index if classes are unnamed."""
        return str(index) if self.classes is None else self.classes[index]

    def to_json(self) -> str:
        """The card as one line of JSON."""
        document = asdict(self)
        if self.content_sha256 is None:
            del document["content_sha256"]
        return json.dumps(document, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(text: str, source: str = "the card") -> Card:
        """Read what `to_json` wrote; keys that this version does not know are ignored, errors call the text `source`.

        Raises:
            CardError: no card, a card of a newer format, or one with a value that is not allowed.
        """
        try:
            document = loads(text, _MAX_DEPTH)
        except (ValueError, RecursionError) as error:
            raise CardError(
                f"{source} is not a card: it is not JSON ({shortened(str(error))}). Export the network again."
            ) from None
        if not isinstance(document, dict) or "format_version" not in document:
            raise CardError(f"{source} is not a card: it is JSON without a format_version. Export the network again.")
        version = document["format_version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            made_by = document.get("versions")
            made_by = made_by.get("vertebra") if isinstance(made_by, dict) else None
            known = isinstance(made_by, str) and re.fullmatch(r"[\w.+!-]{1,40}", made_by)
            wanted = f"vertebra>={made_by}" if known else "vertebra"
            raise CardError(
                f"{source} has a card of format {shortened(str(version))}, and this Vertebra reads formats up to "
                f"{FORMAT_VERSION}. Run: pip install --upgrade '{wanted}'"
            )
        return _build_card(document, source)


# --- from JSON to the records ---------------------------------------------------------------------------------------

_SHA256 = re.compile("[0-9a-f]{64}")
_MAX_SCALE = 1e9  # limit of mean and std, so that float32 can hold their quotients
_Rule: TypeAlias = tuple[Any, str, Callable[[Any], Any] | None]
_COUNT: _Rule = (int, "a whole number of at least 1", lambda count: count >= 1)
_SIDE: _Rule = (int, f"a whole number of pixels, from 1 to {MAX_SIDE:,}", lambda side: 1 <= side <= MAX_SIDE)
_TEXT, _OPTIONAL_TEXT, _OBJECT = (str, "a text", None), (str | None, "null or a text", None), (dict, "an object", None)


def _all_of_type(kind: type, values: Iterable[Any]) -> bool:
    return all(isinstance(value, kind) for value in values)


def _channel_rule(least: float) -> _Rule:
    def are_allowed(values: list[Any]) -> bool:
        return len(values) == 3 and all(type(v) in (int, float) and least <= v <= _MAX_SCALE for v in values)

    return list, f"3 numbers from {least:g} to {_MAX_SCALE:g}, one a channel", are_allowed


# Key of any record -> type, allowed values as text, and the check of a value.
_RULES: dict[str, _Rule] = {
    "format_version": _COUNT,
    "architecture": _TEXT,
    "preprocessing": _OBJECT,
    "crop_size": _SIDE,
    "resize_size": _SIDE,
    "interpolation": (str, ", ".join(INTERPOLATIONS), INTERPOLATIONS.__contains__),
    "mean": _channel_rule(-_MAX_SCALE),
    "std": _channel_rule(1 / _MAX_SCALE),
    "crop_mode": (str, " or ".join(CROP_MODES), CROP_MODES.__contains__),
    "decoding": _OBJECT,
    "rule": _COUNT,
    "bits": (int | None, f"null or a whole number from {BITS[0]} to {BITS[1]}", lambda n: BITS[0] <= n <= BITS[1]),
    "classes": (list | None, "null or a list of names", lambda names: names and _all_of_type(str, names)),
    "weights": (dict | None, "null or an object", None),
    "name": _TEXT,
    "sha256": _OPTIONAL_TEXT,
    "url": _OPTIONAL_TEXT,
    "metrics": (dict, "an object for each data set", lambda sets: _all_of_type(dict, sets.values())),
    "versions": (dict, "the version of each package as a text", lambda packages: _all_of_type(str, packages.values())),
    "licence": _OPTIONAL_TEXT,
    "precision": (str, " or ".join(PRECISIONS), PRECISIONS.__contains__),
    "created": _OPTIONAL_TEXT,
    "temperature": (float, "a number above 0", lambda value: 0 < value < math.inf),
    "threshold": (float | None, "null or a number between 0 and 1", lambda value: 0 <= value <= 1),
    "content_sha256": (str | None, "64 hexadecimal digits", _SHA256.fullmatch),
}


def _read_record(record: Any, document: dict[str, Any], source: str) -> dict[str, Any]:
    """Validate and return the fields of a record; those with defaults may be absent."""
    found = {}
    for entry in fields_of(record):
        name = entry.name
        if name not in document:
            if (entry.default is MISSING and entry.default_factory is MISSING) or name == "rule":
                raise CardError(f"{source} is not a complete card: it has no {name}. Export the network again.")
            continue
        value, (kind, allowed, is_allowed) = document[name], _RULES[name]
        if type(value) is int and kind in (float, float | None) and abs(value) <= _MAX_SCALE:
            value = float(value)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or (value is not None and is_allowed is not None and not is_allowed(value)):
            shown = shortened(repr(value))
            raise CardError(f"{source}: {name} is {shown}; it must be {allowed}. Export the network again.")
        found[name] = value
    return found


def _build_card(document: dict[str, Any], source: str) -> Card:
    last, value = next(reversed(document.items()))
    # If its key is damaged, the checksum would be ignored as an unknown key.
    if last not in Card.__dataclass_fields__ and isinstance(value, str) and _SHA256.fullmatch(value):
        raise CardError(
            f"{source} is damaged: its card ends in a checksum that is called {shortened(repr(last))}. "
            "Copy it again from where it is whole, or export the network again."
        )
    found = _read_record(Card, document, source)
    found["preprocessing"] = _build_preprocessing(found["preprocessing"], f"{source}, preprocessing")
    if found.get("classes") is not None:
        found["classes"] = tuple(found["classes"])
    if found.get("weights") is not None:
        found["weights"] = WeightSource(**_read_record(WeightSource, found["weights"], f"{source}, weights"))
    return Card(**found)


def _build_preprocessing(document: dict[str, Any], source: str) -> Preprocessing:
    found = _read_record(Preprocessing, {"decoding": {"rule": 1}, "crop_mode": "center", **document}, source)
    decoding = Decoding(**_read_record(Decoding, found["decoding"], f"{source}, decoding"))
    if decoding.rule > DECODING_VERSION:
        raise CardError(
            f"{source}, decoding: photos are decoded by rule {shortened(str(decoding.rule), 20)}, and this Vertebra "
            f"knows rules up to {DECODING_VERSION}. Run: pip install --upgrade vertebra"
        )
    return Preprocessing(**{**found, "decoding": decoding})


# --- the card inside a model file -----------------------------------------------------------------------------------

# Field numbers of ModelProto and StringStringEntryProto:
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_IR_VERSION, _GRAPH, _METADATA = 1, 7, 14
_KEY, _VALUE = 1, 2
_MAX_BYTES = 1 << 26  # of a card: a million classes with names of fifty letters


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read the card of an exported file without its checksum; before a prediction, use `read_verified_card`.

    Needs neither onnx nor onnxruntime. The graph is skipped, so the size of the network does not matter.

    Raises:
        CardError: the file is missing, not ONNX, has no card, or one that cannot be read.
    """
    with open_model_file(path) as file:
        return parse_card(file, locate_card(file), os.fspath(path))


@contextmanager
def open_model_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a model file; what fails here or in the block becomes a `CardError`."""
    path = Path(path)
    try:
        if path.is_dir():
            raise CardError(f"{path} is a folder, not a model file.")
        if path.exists() and not path.is_file():
            raise CardError(f"{path} is a pipe or device, not a model file.")  # reading it may never end
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise CardError(f"{path}: no such file.") from None
    except OSError as error:
        raise CardError(f"{path} cannot be read ({error.strerror}).") from error
    except ValueError:
        raise CardError(
            f"{path} is not an ONNX file, or it is damaged or cut short. "
            "Export the network again with: vertebra export NAME|CHECKPOINT --out FILE.onnx"
        ) from None


def locate_card(file: IO[bytes]) -> Span | None:
    """The span of the card's JSON in a model file, or None; a `ValueError` if the file is not ONNX."""
    seen = set()
    found: list[Span] = []
    for number, value in iter_fields(file, 0, file.seek(0, os.SEEK_END)):
        seen.add(number)
        if number == _METADATA:
            entry = dict(iter_fields(file, *require_span(value)))
            key = require_span(entry.get(_KEY, (0, 0)))
            if key[1] - key[0] == len(METADATA_KEY) and read_content(file, key) == METADATA_KEY.encode():
                found.append(require_span(entry.get(_VALUE, (0, 0))))
    if not {_IR_VERSION, _GRAPH} <= seen or len(found) > 1:
        raise ValueError("a protobuf message, but no model with a card")
    return found[0] if found else None


def parse_card(file: IO[bytes], place: Span | None, source: str) -> Card:
    """Parse the card at a span of a file, or raise a `CardError` or `ValueError`."""
    if place is None:
        raise CardError(
            f"{source} is an ONNX file without a card, so its classes and preprocessing are unknown. "
            "Export the network with: vertebra export NAME|CHECKPOINT --out FILE.onnx"
        )
    if place[1] - place[0] > _MAX_BYTES:
        raise CardError(
            f"{source} has a card of {place[1] - place[0]:,} bytes, and at most {_MAX_BYTES:,} are allowed."
        )
    return Card.from_json(read_content(file, place).decode("utf-8"), source)
