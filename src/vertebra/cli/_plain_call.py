"""Arguments of a plain call, read without typer, whose import takes a tenth of the time of predicting one photo."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

Settings = TypeVar("Settings")


def plain_settings(settings: type[Settings], arguments: Sequence[str]) -> Settings | None:
    """Return the settings that the arguments of a command stand for; None: typer has to read them, or refuse them.

    The first field takes the words. Of the others, those are known whose default is a text (any value), a number (from
    1 on) or False (a flag).
    """
    if sys.platform == "win32" or "_VERTEBRA_COMPLETE" in os.environ:  # typer expands patterns, or completes
        return None
    words, *options = fields(settings)  # type: ignore[arg-type]
    known = {f"--{option.name.replace('_', '-')}": option for option in options if option.default is not MISSING}
    values: dict[str, Any] = {}
    given: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            given.append(argument)
            continue
        option = known.get(argument)
        if option is None:
            return None
        if option.default is False:
            values[option.name] = True
            continue
        value = next(rest, "-")
        if value.startswith("-"):
            return None
        if isinstance(option.default, str):
            values[option.name] = value
        elif isinstance(option.default, int) and value.isascii() and value.isdigit() and 1 <= int(value) < 10**9:
            values[option.name] = int(value)
        else:
            return None
    return settings(**{words.name: given}, **values) if given else None
