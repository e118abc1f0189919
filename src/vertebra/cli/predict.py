"""`vertebra predict`: its options as typer reads them."""

from __future__ import annotations

import typer

from vertebra.cli._options import options_of
from vertebra.cli._prediction import Settings, predict
from vertebra.cli._ray_option import OptionalAddress

app = typer.Typer(rich_markup_mode=None)
app.command(cls=OptionalAddress)(options_of(Settings)(predict))
