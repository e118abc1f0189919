"""Find a network's weights in a checkpoint: under which key, with which prefix.

The network decides, not a list of keys and wrappers: its weights are where all of its tensor names are found below one
prefix. `DistributedDataParallel`, `torch.compile`, Lightning, timm and training scripts put them below `state_dict`,
`model_ema`, `module.`, `_orig_mod.`, `net.backbone.` and so on, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from vertebra.errors import WeightsError, warn

from . import timm_weights
from .convnet import ConvNet, hidden_settings_of
from .pickle_reader import InertObject
from .state_dict import abbreviate
from .weight_reader import Content, named_tensors

N = TypeVar("N")

_DEPTH = 4  # of dicts in dicts; Lightning keeps averages in its callbacks' states
# Words for the averaged copy, which training scripts evaluate.
_AVERAGED = {"ema", "swa", "avg", "average", "averaged", "averaging", "polyak", "shadow"}
# AveragedModel saves its counter among the weights.
_COUNTERS = ("n_averaged",)
_BODY_SHARE = 0.9  # of the body's names; GoogLeNet's auxiliary heads may be left out
# Whose objects are numbers and settings (`avg_loss`, `ema_decay`), not networks.
_PLAIN = {"numpy", "builtins", "collections", "datetime", "decimal", "pathlib", "_codecs"}


@dataclass(frozen=True)
class Candidate:
    """Tensors that may be the weights."""

    place: str  # keys and prefix, for people; "" is the file itself
    prefix: str  # of the names there
    averaged: bool
    tensors: dict[str, Tensor]  # without the prefix; `find_matching_weights` makes sure that they are tensors
    hidden_settings: Mapping[str, Any]  # what the network that was saved says of itself; see `ConvNet.hidden_settings`
    beside: tuple[str, ...]  # names of tensors in the same dict that do not have the prefix


def find_matching_weights(
    content: Content, cls: type[ConvNet], fit: Callable[[Candidate], N], names: Callable[[], list[str]]
) -> tuple[Candidate, N]:
    """Return the weights in a file that fit the network, and what `fit` returned for them.

    If an averaged copy fits too, it is preferred, as in timm, with a warning.

    Args:
        content: of the file.
        cls: the network's class. The weight of its first convolution marks where a network's names begin; blocks whose
            first layer has the same name do not have its classifier.
        fit: called with what may be the weights.
        names: gives the names of the network's tensors.

    Raises:
        WeightsError: no weights fit, or several different ones do; `fit` raises it for weights that do not fit.
    """
    path = content.path
    marks = ((cls.stem_path, cls.head_name), *timm_weights.stem_and_head_names(cls))
    candidates = [candidate for stem, head in marks for candidate in _candidates(content, stem, head)]
    if not candidates:
        for stem, _ in marks:
            _refuse_headless(content, stem, cls, names)
        candidates = [_largest_state_dict(content)]
    fitting: list[tuple[Candidate, N]] = []
    errors: list[tuple[Candidate, WeightsError]] = []
    for candidate in candidates:
        try:
            sound = replace(candidate, tensors=named_tensors(candidate.tensors, path))
            fitting.append((sound, fit(sound)))
        except WeightsError as error:
            errors.append((candidate, error))
    if not fitting:
        raise max(errors, key=lambda pair: len(pair[0].tensors))[1]
    different = [
        pair for i, pair in enumerate(fitting) if not any(_is_equal(pair[0], other) for other, _ in fitting[:i])
    ]
    averaged = [pair for pair in different if pair[0].averaged]
    if len(different) > 1 and len(averaged) != 1:
        places = " and ".join(_location(candidate) for candidate, _ in different)
        raise WeightsError(
            f"'{path}' holds several weights that fit this network and differ: {places}. Save the ones you want to "
            "a file of their own: torch.save(model.state_dict(), path)."
        )
    chosen = averaged[0] if averaged else different[0]
    if len(different) > 1:
        others = " and ".join(_location(candidate) for candidate, _ in different if candidate is not chosen[0])
        warn(f"'{path}' holds weights at {others} and an averaged copy at {_location(chosen[0])}, which is loaded.")
    skipped = [*_unusable_averages(content.value), *_outermost(c.place for c, _ in errors if c.averaged)]
    if skipped and not chosen[0].averaged:
        warn(
            f"'{path}' also holds an averaged copy ({abbreviate(skipped)}) that is not a complete set of weights of "
            f"this network; the weights at {_location(chosen[0])} are loaded."
        )
    others_below = tuple(candidate.prefix for candidate, _ in fitting if candidate.prefix)
    if beside := [name for name in chosen[0].beside if not name.startswith(others_below)]:
        warn(
            f"'{path}' holds more than this network, whose weights are at {_location(chosen[0])}; skipped: "
            f"{abbreviate(beside)}."
        )
    return chosen


def _candidates(content: Content, stem: str, head: str) -> Iterator[Candidate]:
    first = f"{stem}.weight"
    for place, mapping in _state_dicts(content.value, (), set()):
        names = [name for name in mapping if isinstance(name, str)]
        modules = {name[:at] for name in names for at, letter in enumerate(name) if letter == "."}
        for name in names:
            prefix = name.removesuffix(first)
            if prefix == name or (prefix and not prefix.endswith(".")) or prefix + head not in modules:
                continue
            yield _candidate(content, place, prefix, mapping)


def _candidate(content: Content, place: tuple[str, ...], prefix: str, mapping: Mapping[Any, Any]) -> Candidate:
    below = {name: value for name, value in mapping.items() if isinstance(name, str) and name.startswith(prefix)}
    if not prefix:
        below = {name: value for name, value in mapping.items() if name not in _COUNTERS}
    beside = [
        name
        for name, value in mapping.items()
        if name not in below and name not in _COUNTERS and isinstance(value, Tensor)
    ]
    parts = [*place, *([prefix.rstrip(".")] if prefix else [])]
    words = {word for part in parts for word in _words(part)}
    # Lightning's WeightAveraging saves the averaged copy as the `state_dict`, and the other beside it.
    swapped = place[:1] == ("state_dict",) and "current_model_state" in content.value
    return Candidate(
        place=" → ".join(parts),
        prefix=prefix,
        averaged=bool(words & _AVERAGED) or any(name in mapping for name in _COUNTERS) or swapped,
        tensors={name.removeprefix(prefix): value for name, value in below.items()},
        hidden_settings=hidden_settings_of(mapping, prefix.removesuffix(".")) or content.hidden_settings,
        beside=tuple(str(name) for name in beside),
    )


def _largest_state_dict(content: Content) -> Candidate:
    """The largest state dict in a file that has no matching weights, for the error message."""
    found = [mapping for _, mapping in _state_dicts(content.value, (), set())]
    largest = max(found, key=len, default=content.value)
    if not found and isinstance(content.value, Mapping):
        largest = next((entry for entry in content.value.values() if isinstance(entry, InertObject)), largest)
    return Candidate("", "", False, named_tensors(largest, content.path), {}, ())


def _refuse_headless(content: Content, stem: str, cls: type[ConvNet], names_of: Callable[[], list[str]]) -> None:
    """Raise a `WeightsError` if a file holds the network without its classifier, as encoders do."""
    head = cls.head_name
    for place, mapping in _state_dicts(content.value, (), set()):
        names = [name for name in mapping if isinstance(name, str)]
        found = {name.removesuffix(f"{stem}.weight") for name in names if f".{name}".endswith(f".{stem}.weight")}
        for prefix in sorted(found, key=len):
            body = _candidate(content, place, prefix, mapping)
            if not (wanted := _missing_head_names(names_of(), cls.own_names(body.tensors), head)):
                continue
            linear = [name for name in names if getattr(mapping[name], "ndim", 0) == 2]
            text = (
                f"'{content.path}' holds the network's body at {_location(body)} and no classifier '{head}' beside it"
            )
            renamed = abbreviate([prefix + name for name in wanted])
            if linear:
                raise WeightsError(
                    f"{text}; linear layers of other names are {abbreviate(linear)}. If one of them is the classifier, "
                    f"save the file again with its tensors renamed: {renamed}."
                )
            raise WeightsError(
                f"{text}, nor any other linear layer: it was saved from an encoder. Save it again with a classifier, "
                f"of random values where a new one is trained: {renamed}."
            )


def _missing_head_names(wanted: Sequence[str], tensors: Mapping[str, Any], head: str) -> list[str]:
    """The names of the classifier's tensors if `tensors` has the body but no classifier; else an empty list."""
    body = [name for name in wanted if not name.startswith(f"{head}.") and not name.endswith("num_batches_tracked")]
    if sum(name in tensors for name in body) < _BODY_SHARE * len(body):
        return []
    return [name for name in wanted if name.startswith(f"{head}.")]


def _state_dicts(
    value: Any, place: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Each dict that holds tensors, and the keys that lead there."""
    if not isinstance(value, Mapping) or id(value) in seen or len(place) > _DEPTH:
        return
    seen.add(id(value))
    if any(isinstance(entry, Tensor) for entry in value.values()):
        yield place, value
    for key, entry in value.items():
        if isinstance(key, str):
            yield from _state_dicts(entry, (*place, key), seen)


def _unusable_averages(value: Any, averaged: bool = False, depth: int = _DEPTH) -> list[str]:
    """Averaged copies that were saved as an object or as a list, without tensor names."""
    if not isinstance(value, Mapping) or depth < 0:
        return []
    found: list[str] = []
    for key, entry in value.items():
        if not isinstance(key, str):
            continue
        within = averaged or bool(set(_words(key)) & _AVERAGED)
        if within and not averaged and isinstance(entry, InertObject) and entry.name.partition(".")[0] not in _PLAIN:
            found.append(f"{key}, an object of {entry.name}")
        elif within and isinstance(entry, list | tuple) and any(isinstance(part, Tensor) for part in entry):
            found.append(f"{key}, a list of {len(entry)} tensors without names")
        else:
            found += _unusable_averages(entry, within, depth - 1)
    return found


def _outermost(places: Iterable[str]) -> list[str]:
    """Without those inside of others: the blocks of a network that does not fit."""
    found: list[str] = []
    for place in sorted(filter(None, places)):
        if not any(place.startswith((f"{outer} → ", f"{outer}.")) for outer in found):
            found.append(place)
    return found


def _words(name: str) -> list[str]:
    """`"modelEMA_state"` → model, ema, state."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _location(candidate: Candidate) -> str:
    return f"'{candidate.place}'" if candidate.place else "the top"


def _is_equal(one: Candidate, other: Candidate) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        value is other.tensors[name] or torch.equal(value, other.tensors[name]) for name, value in one.tensors.items()
    )
