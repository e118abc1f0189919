"""`explore` and its result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from vertebra.decoding import Source
from vertebra.files import wrap_write_errors, write_durably
from vertebra.progress import Progress, silent

from .document import Options, build_document
from .observation import build_structure, observe, time_parts
from .page import render_page
from .photo import read_photo
from .subject import load_subject
from .worked_values import require_cells


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
            VertebraError: the file cannot be written.
        """
        path = Path(path)
        with wrap_write_errors(path):
            write_durably(path, self.page.encode("utf-8", "backslashreplace"))
        return path

    def __repr__(self) -> str:
        names = " and ".join(network["name"] for network in self.document["networks"])
        photos = " and ".join(dict.fromkeys(view["photo"]["name"] for view in self.document["views"]))
        return f"<Exploration of {names} on {photos}>"


def explore(
    photo: Source,
    model: nn.Module | str | os.PathLike[str] = "efficientnet_lite0",
    *,
    language: str = "en",
    values: Sequence[str] = (),
    progress: Progress = silent,
) -> Exploration:
    """Run a network on a photo, and keep what one can look at: maps, values, gates, receptive fields, evidence.

    Args:
        photo: path, URL-free file object or bytes of an image.
        model: a network's name, a run, a weight file, a function, or a module.
        values: to be worked out besides the strongest one of each layer: "LAYER,C,Y,X", or "LAYER,C" of a linear
            layer; channel, row and column count from 0.
        language: of the page at first, "en" or "ja".
        progress: told of the steps.

    Raises:
        ImageError: the photo cannot be read.
        UsageError: there is no such model, or no such value.
    """
    options = Options(language=language, values=tuple(values))
    structure = build_structure(load_subject(model))
    require_cells([structure], options.values)
    time_parts(structure)
    seen = observe(structure, read_photo(photo, structure.subject.preprocessing))
    return Exploration(build_document([seen], options, progress))
