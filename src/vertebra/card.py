"""The record that travels with a network: how its input is made and, in exported files, all else one must know.

Standard library only: training, export, the runtime and the server read the same record, so that a deployed network
gets the pixels it was trained on. In an exported file it is JSON in the metadata of the model, under `METADATA_KEY`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from dataclasses import fields as fields_of
from pathlib import Path
from typing import IO, Any

from vertebra.errors import VertebraError, printable
from vertebra.preprocessing import BITS as BITS
from vertebra.preprocessing import DECODING_RULE as DECODING_RULE
from vertebra.preprocessing import INTERPOLATIONS as INTERPOLATIONS
from vertebra.preprocessing import MAX_PIXELS
from vertebra.preprocessing import Decoding as Decoding
from vertebra.preprocessing import Preprocessing as Preprocessing
from vertebra.protobuf import Place, content, fields, place_of

METADATA_KEY = "vertebra.card"
FORMAT_VERSION = 2  # the newest that is read; what a card is written in is `Card.format_version`
PRECISIONS = ("float32", "int8")

MAX_SIDE = math.isqrt(MAX_PIXELS)  # of a square input


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
    """What one must know of an exported network.

    The graph holds normalisation and softmax: `preprocessing` leaves a client its resize and its crop, and the rest of
    it is for the record. So is `temperature`: the graph has divided the logits by it already.
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
    threshold: float | None = None  # a best probability below it means "none of these classes"
    format_version: int = 1  # raised to the oldest whose readers predict as this card says
    # In an exported file: of all its bytes, with zeros in the place of these 64 digits (`model_checksum`). Stays last.
    # Cards that say the same are equal, whatever files they are in.
    content_sha256: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        # Readers of format 1 pass `bits` by, and a photo of 12 bits is black to them.
        needed = 1 if self.preprocessing.decoding.bits is None else 2
        object.__setattr__(self, "format_version", max(self.format_version, needed))

    def class_name(self, index: int) -> str:
        """The name of a class, or its number where classes have no names."""
        return str(index) if self.classes is None else self.classes[index]

    def to_json(self) -> str:
        """The card as one line of JSON."""
        document = asdict(self)
        if self.content_sha256 is None:
            del document["content_sha256"]
        return json.dumps(document, ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_json(text: str, source: str = "the card") -> Card:
        """Read a card; keys that this version does not know are ignored.

        Args:
            text: what `to_json` wrote.
            source: how errors call it, for example the file's name.

        Raises:
            CardError: no card, a card of a newer format, or one with a value that is not allowed.
        """
        try:
            document = _parsed(text)
        except (ValueError, RecursionError) as error:
            raise CardError(
                f"{source} is not a card: it is not JSON ({_shortened(str(error))}). Export the network again."
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
                f"{source} has a card of format {_shortened(str(version))}, and this Vertebra reads formats up to "
                f"{FORMAT_VERSION}. Run: pip install --upgrade '{wanted}'"
            )
        return _Reader(document, source).card()


_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_DEPTH = 20  # a card of today is nested 4 deep; what is nested without end ends the process that walks through it


def _parsed(text: str) -> Any:
    """JSON without what the format leaves open: keys that stand twice, NaN, numbers that no float holds.

    Raises:
        ValueError: says what is wrong; also for text that is no Unicode, and for what is nested deeper than any card.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {_shortened(repr(twice), 20)} stands in it twice")
        return found

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{_shortened(number, 20)} is no finite number")
        return value

    document = json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    level: list[Any] = [document]
    for _ in range(_MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, str):
                if _SURROGATE.search(value):  # which JSON can write, and no file and no terminal takes
                    raise ValueError("it has half a character, a lone surrogate")
            elif isinstance(value, dict):
                deeper += [*value, *value.values()]
            elif isinstance(value, list):
                deeper += value
        if not deeper:
            return document
        level = deeper
    raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


class _Reader:
    """A JSON document → a card, each value checked."""

    def __init__(self, document: dict[str, Any], source: str) -> None:
        self.document = document
        self.source = source

    def card(self) -> Card:
        self.check_last()
        version = self.take("format_version", int)
        if version < 1:
            raise self.wrong("format_version", version, "a whole number of at least 1")
        precision = self.take("precision", str, "float32")
        if precision not in PRECISIONS:
            raise self.wrong("precision", precision, " or ".join(PRECISIONS))
        classes = self.take("classes", list, None)
        if classes is not None and not (classes and all(isinstance(name, str) for name in classes)):
            raise self.wrong("classes", classes, "null or a list of names")
        temperature = self.take("temperature", float, 1.0)
        if not (math.isfinite(temperature) and temperature > 0):
            raise self.wrong("temperature", temperature, "a number above 0")
        threshold = self.take("threshold", float, None)
        if threshold is not None and not 0 <= threshold <= 1:
            raise self.wrong("threshold", threshold, "null or a number between 0 and 1")
        weights = self.take("weights", dict, None)
        metrics = self.take("metrics", dict, {})
        if not all(isinstance(measures, dict) for measures in metrics.values()):
            raise self.wrong("metrics", metrics, "an object for each data set")
        versions = self.take("versions", dict, {})
        if not all(isinstance(version, str) for version in versions.values()):
            raise self.wrong("versions", versions, "the version of each package as a text")
        digest = self.take("content_sha256", str, None)
        if digest is not None and not _SHA256.fullmatch(digest):
            raise self.wrong("content_sha256", digest, "64 hexadecimal digits")
        return Card(
            architecture=self.take("architecture", str),
            preprocessing=self.part("preprocessing", self.take("preprocessing", dict)).preprocessing(),
            classes=None if classes is None else tuple(classes),
            weights=None if weights is None else self.part("weights", weights).weight_source(),
            metrics=metrics,
            versions=versions,
            licence=self.take("licence", str, None),
            precision=precision,
            created=self.take("created", str, None),
            temperature=temperature,
            threshold=threshold,
            format_version=version,
            content_sha256=digest,
        )

    def check_last(self) -> None:
        """Refuse a card whose checksum is there and has lost its name: by one damaged letter it would be unknown."""
        name, value = next(reversed(self.document.items()))
        if name not in _CARD_KEYS and isinstance(value, str) and _SHA256.fullmatch(value):
            raise CardError(
                f"{self.source} is damaged: its card ends in a checksum that is called {_shortened(repr(name))}. "
                "Copy it again from where it is whole, or export the network again."
            )

    def preprocessing(self) -> Preprocessing:
        sizes = {name: self.take(name, int) for name in ("crop_size", "resize_size")}
        for name, value in sizes.items():
            if not 1 <= value <= MAX_SIDE:
                raise self.wrong(name, value, f"pixels, from 1 to {MAX_SIDE:,}")
        interpolation = self.take("interpolation", str)
        if interpolation not in INTERPOLATIONS:
            raise self.wrong("interpolation", interpolation, ", ".join(INTERPOLATIONS))
        return Preprocessing(
            **sizes,
            interpolation=interpolation,
            mean=self.numbers("mean", -_MAX_SCALE, _MAX_SCALE),
            std=self.numbers("std", 1 / _MAX_SCALE, _MAX_SCALE),
            decoding=self.part("decoding", self.take("decoding", dict, {"rule": 1})).decoding(),
        )

    def decoding(self) -> Decoding:
        rule, bits = self.take("rule", int), self.take("bits", int, None)
        if rule < 1:
            raise self.wrong("rule", rule, "a whole number of at least 1")
        if rule > DECODING_RULE:
            raise CardError(
                f"{self.source}: photos are decoded by rule {_shortened(str(rule), 20)}, and this Vertebra knows rules "
                f"up to {DECODING_RULE}. Run: pip install --upgrade vertebra"
            )
        if bits is not None and not BITS[0] <= bits <= BITS[1]:
            raise self.wrong("bits", bits, f"null or a whole number from {BITS[0]} to {BITS[1]}")
        return Decoding(rule, bits)

    def numbers(self, name: str, least: float, most: float) -> tuple[float, ...]:
        values = self.take(name, list)
        sound = all(isinstance(v, int | float) and not isinstance(v, bool) and least <= v <= most for v in values)
        if len(values) != 3 or not sound:
            raise self.wrong(name, values, f"3 numbers from {least:g} to {most:g}, one a channel")
        return tuple(float(value) for value in values)

    def weight_source(self) -> WeightSource:
        return WeightSource(self.take("name", str), self.take("sha256", str, None), self.take("url", str, None))

    def part(self, name: str, document: dict[str, Any]) -> _Reader:
        return _Reader(document, f"{self.source}, {name}")

    def take(self, name: str, kind: type[Any], *default: Any) -> Any:
        """The value of that name; a default stands for a key that is absent, and None for null where it is one."""
        if name not in self.document:
            if default:
                return default[0]
            raise CardError(f"{self.source} is not a complete card: it has no {name}. Export the network again.")
        value = self.document[name]
        if value is None and default == (None,):
            return None
        if kind is float and type(value) is int and abs(value) <= _MAX_SCALE:
            return float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.wrong(name, value, _JSON_NAMES[kind])
        return value

    def wrong(self, name: str, value: Any, allowed: str) -> CardError:
        shown = _shortened(repr(value))
        return CardError(f"{self.source}: {name} is {shown}; it must be {allowed}. Export the network again.")


_SHA256 = re.compile("[0-9a-f]{64}")
_CARD_KEYS = {entry.name for entry in fields_of(Card)}
_MAX_SCALE = 1e9  # of means and deviations, of which float32 takes quotients; those of networks are below 256
_JSON_NAMES = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


# --- the card inside a model file -----------------------------------------------------------------------------------

# ONNX is a protobuf message. These are the fields of ModelProto and StringStringEntryProto that matter here, from
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_IR_VERSION, _GRAPH, _METADATA = 1, 7, 14
_KEY, _VALUE = 1, 2
_MAX_BYTES = 1 << 26  # of a card: a million classes with names of fifty letters


def read_card(path: str | os.PathLike[str]) -> Card:
    """The card of an exported file, whatever state its network is in: who predicts takes `model_checksum.checked_card`.

    Needs neither onnx nor onnxruntime, and takes no longer for a large network: its graph is skipped, not read.

    Raises:
        CardError: the file is missing, not ONNX, has no card, or one that cannot be read.
    """
    with opened(path) as file:
        return card_at(file, locate_card(file), os.fspath(path))


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A model's file; what goes wrong with reading it in the block is a `CardError`.

    Raises:
        CardError: the file is missing, cannot be read, or is not ONNX.
    """
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


def locate_card(file: IO[bytes]) -> Place | None:
    """Where the JSON of the card lies in the file of a model; None where it has none.

    Raises:
        ValueError: it is not ONNX, cut short, or has several cards.
        OSError: it cannot be read.
    """
    seen = set()
    found: list[Place] = []
    for number, value in fields(file, 0, file.seek(0, os.SEEK_END)):
        seen.add(number)
        if number == _METADATA:
            entry = dict(fields(file, *place_of(value)))
            key = place_of(entry.get(_KEY, (0, 0)))
            if key[1] - key[0] == len(METADATA_KEY) and content(file, key) == METADATA_KEY.encode():
                found.append(place_of(entry.get(_VALUE, (0, 0))))
    if not {_IR_VERSION, _GRAPH} <= seen or len(found) > 1:
        raise ValueError("a protobuf message, but no model with a card")
    return found[0] if found else None


def card_at(file: IO[bytes], place: Place | None, source: str) -> Card:
    """The card that lies at a place in a file.

    Raises:
        CardError: there is none, or one that cannot be read.
        ValueError: it is no text.
    """
    if place is None:
        raise CardError(
            f"{source} is an ONNX file without a card, so its classes and preprocessing are unknown. "
            "Export the network with: vertebra export NAME|CHECKPOINT --out FILE.onnx"
        )
    if place[1] - place[0] > _MAX_BYTES:
        raise CardError(
            f"{source} has a card of {place[1] - place[0]:,} bytes, and at most {_MAX_BYTES:,} are allowed."
        )
    return Card.from_json(content(file, place).decode("utf-8"), source)
