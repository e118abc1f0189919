"""`explore` and its result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from vertebra.decoding import Source
from vertebra.errors import UsageError, VertebraError, warn
from vertebra.files import wrap_write_errors, write_durably
from vertebra.progress import Progress, silent

from .document import build_document
from .notes import said
from .observation import Observation, Structure, build_structure, observe, time_parts
from .options import Channels, ChannelsArgument, Options
from .page import LANGUAGES, check_page_path, page_bytes, render_page, texts
from .patches import photos_below
from .photo import check_photo, read_photo
from .subject import Subject, load_subject, plain_twin, untrained_twin

Model = nn.Module | str | os.PathLike[str]
UNTRAINED, PLAIN = "untrained", "plain"  # what a network may be compared with


@dataclass(frozen=True, repr=False)
class Exploration:
    """A network's inside on a photo, as the JSON document of the page."""

    document: dict[str, Any]

    @cached_property
    def page(self) -> str:
        """The page as HTML."""
        return render_page(self.document)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page.

        Raises:
            UsageError: another file is there, which is no such page.
            VertebraError: the file cannot be written.
        """
        path = Path(path)
        check_page_path(path)
        content = page_bytes(self.page)  # a page that cannot be made is another error
        with wrap_write_errors(path):
            write_durably(path, content)
        return path

    def __repr__(self) -> str:
        names = " and ".join(network["name"] for network in self.document["networks"])
        photos = " and ".join(dict.fromkeys(view["photo"]["name"] for view in self.document["views"]))
        return f"<Exploration of {names} on {photos}>"


def explore(
    photo: Source,
    model: Model = "efficientnet_lite0",
    *,
    other_photo: Source | None = None,
    compare: Model | None = None,
    weights: Any = "DEFAULT",
    photos: str | os.PathLike[str] | None = None,
    channels: ChannelsArgument = None,
    values: str | Sequence[str] = (),
    language: str = "en",
    progress: Progress = silent,
) -> Exploration:
    """Run a network on a photo, and keep what one can look at: maps, values, gates, receptive fields, evidence.

    Args:
        photo: path, file object or bytes of an image.
        model: a network's name, a run, a weight file, a function, or a module, which is copied.
        other_photo: shown beside the first, in the same network.
        compare: shown beside the network, on the same photo: "untrained" (it with random weights), "plain" (it without
            its shortcuts), or another model.
        weights: for a network's name: "DEFAULT", "none" (random), the name of published weights, or a file.
        photos: a folder; of each channel shown, the patches of these photos that excite it most.
        channels: how many of each stage and block are shown, or those of parts: {"layer4": [5, 17]}.
        values: to be worked out besides the strongest one of each layer: "LAYER,C,Y,X", or "LAYER,C" of a linear
            layer; channel, row and column count from 0.
        language: of the page at first, "en" or "ja".
        progress: told of the steps.

    Raises:
        ImageError: a photo cannot be read.
        UsageError: there is no such model, part or value, or the arguments exclude each other.
        VertebraError: the weights cannot be had, or the network gives no finite logits.
    """
    if language not in LANGUAGES:
        raise UsageError(f"language is {language!r}; it must be one of {', '.join(LANGUAGES)}.")
    if other_photo is not None and compare is not None:
        raise UsageError(
            "other_photo and compare are both given; the page has two views. Leave one out.",
            "PHOTO2 and --compare are both given; the page has two views. Leave one out.",
        )
    values = (values,) if isinstance(values, str) else tuple(values)
    options = Options(language, values, Channels.of_argument(channels))
    sources = [photo] if other_photo is None else [photo, other_photo]
    for source in sources:
        check_photo(source)
    if photos is not None:
        options = replace(options, photos=tuple(photos_below(photos)), folder=Path(photos))
    progress("explore: loading the network")
    subject = load_subject(model, weights=weights)
    other = None if compare is None else _other_subject(subject, compare)
    progress("explore: analysing the network")
    structure = build_structure(subject)
    structures = [structure]
    if other is not None:
        # The twin with random weights has the same operations.
        structures.append(replace(structure, subject=other) if compare == UNTRAINED else build_structure(other))
    options.check(structures)
    progress("explore: timing the layers")
    timed = structures if compare != UNTRAINED else [structure]
    notes = [note for one in timed for note in time_parts(one)]
    runs = list(zip(structures * len(sources), sources * len(structures), strict=True))

    def observations() -> Iterator[Observation]:
        for index, (one, source) in enumerate(runs):
            progress("explore: running the network", index, len(runs))
            yield _observe(one, source)

    document = build_document(observations(), options, progress, notes)
    for note in document["notes"]:
        warn(texts()["en"][note["key"]].format_map(said(note["values"])))
    return Exploration(document)


def _other_subject(subject: Subject, compare: Model) -> Subject:
    if compare == UNTRAINED:
        return untrained_twin(subject)
    return plain_twin(subject) if compare == PLAIN else load_subject(compare)


def _observe(structure: Structure, source: Source) -> Observation:
    if hasattr(source, "seek"):
        source.seek(0)
    found = observe(structure, read_photo(source, structure.subject.preprocessing))
    if not found.logits.isfinite().all():
        raise VertebraError(
            f"{structure.subject.name} gives NaN or infinite logits for {found.photo.name}, so there is nothing to "
            "explain. Are its weights finite, and its preprocessing the right one?"
        )
    return found
