"""Options that several commands have in common."""

from __future__ import annotations

from typing import Annotated

import typer

Ignore = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Pass by a folder, or a label, split or column of a table; may be repeated."),
]
AllowUnseen = Annotated[bool, typer.Option("--allow-unseen", help="Leave out classes that only test or val has.")]
Bits = Annotated[int | None, typer.Option(metavar="N", min=8, max=16, help="Bits that 16-bit photos use, such as 12.")]
BitsOverCard = Annotated[
    int | None,
    typer.Option(metavar="N", min=8, max=16, help="Bits that 16-bit photos use, such as 12; else as the card says."),
]
