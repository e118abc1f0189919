"""What is said of missing photos and unmatched patterns: the nearest name, or where a network's name belongs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from vertebra.errors import suggest_path

FEW = 8  # each is searched for in its folder


def is_missing(path: str) -> bool:
    """Whether nothing has this path. False for what cannot be asked for: a name that is too long, or with a NUL."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False


def explain_missing(path: str) -> str:
    """The message for a photo that does not exist, with what is meant instead, where that can be told."""
    hint = suggest_path(path)
    if _is_network(path):
        hint = f"A photo is expected here; the network of that name is given as the model (--model {path})."
    return f"{path}: no such file. {hint}" if hint else f"{path}: no such file"


@dataclass
class MissingPhotos:
    """Explains the first `left` paths; the others, such as those of a long list, get no hint."""

    left: int = FEW

    def no_match(self, pattern: str) -> str:
        """The message for a pattern that no file matches."""
        text = f"{pattern}: no file matches"
        if self.left <= 0:
            return text
        self.left -= 1
        hint = suggest_path(pattern)
        return f"{text}. {hint}" if hint else text

    def error(self, path: str) -> str | None:
        """The message for a path without a file; None if it has one, or reading it will tell more."""
        if self.left <= 0 or not is_missing(path):
            return None
        self.left -= 1
        return explain_missing(path)


def _is_network(name: str) -> bool:
    from vertebra.model_table import networks  # a table of all networks, which photos do not need
    from vertebra.timm_names import read_name

    return read_name(name, networks()) is not None
