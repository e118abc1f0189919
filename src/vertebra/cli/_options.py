"""Options that several commands have in common, and how a dataclass of settings becomes options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from vertebra.model_argument import takes

Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Leave out a folder, or a label, split or column of a table; may be repeated."),
]
PathColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of a table: the column of paths.")]
LabelColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of a table: the column of labels.")]
SplitColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Of a table: the column of train, val and test.")]
ImageRoot = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="What a table's paths are relative to; else the folder that it lies in."),
]
AllowUnseen = Annotated[bool, typer.Option("--allow-unseen", help="Leave out classes that only test or val has.")]
Bits = Annotated[int | None, typer.Option(metavar="N", min=8, max=16, help="Bits that 16-bit photos use, such as 12.")]
BitsOverCard = Annotated[
    int | None,
    typer.Option(metavar="N", min=8, max=16, help="Bits that 16-bit photos use, such as 12; else as the card says."),
]


Settings = TypeVar("Settings")


def options_of(settings: type[Settings]) -> Callable[[Callable[[Settings], None]], Callable[..., None]]:
    """A function that takes a dataclass → a command whose arguments and options are the fields of that."""

    def as_command(function: Callable[[Settings], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            function(settings(**values))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        # A module that does without typer when it is imported names these in its annotations all the same.
        command.__signature__ = inspect.signature(settings, eval_str=True, locals=globals())  # type: ignore[attr-defined]
        return command

    return as_command


def model_help(command: str) -> str:
    """What `--help` says of a MODEL: the same words in every command, for what this one takes."""
    text = takes(command)
    return f"{text[0].upper()}{text[1:]}."
