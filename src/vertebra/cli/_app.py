"""The table of commands, and the group that loads each of them only when it is invoked."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from vertebra import __version__
from vertebra.errors import UsageError, suggest

# Name -> what the list of commands says. The module of a command is vertebra.cli.<name>; it has a typer `app`.
COMMANDS = {
    "models": "List the networks with their size, cost and accuracy.",
    "predict": "Classify photos.",
    "inspect": "Show where a network spends parameters, MACs, bytes and time.",
    "compare": "Compare networks: cost, accuracy, which are Pareto-optimal.",
    "choose": "Find the networks that fit a budget, and why others do not.",
    "train": "Train a classifier on a folder of labelled photos.",
    "evaluate": "Measure a classifier on labelled photos.",
    "audit": "Find the broken, duplicate and mislabelled photos of a data set.",
    "export": "Export a network as one ONNX file that predicts without torch.",
    "serve": "Serve exported classifiers over HTTP, with a page to use them.",
    "explore": "Look inside a network at work on a photo, in a page.",
    "lab": "Test what is claimed of these networks, by experiments.",
    "bench": "Time networks here, with each backend that is installed.",
    "card": "Show what an exported file says of itself.",
    "weights": "List, fetch, verify and find pretrained weights.",
    "doctor": "Show versions, devices, cache and what is missing.",
}


class Interrupted(BaseException):
    """Carries a `KeyboardInterrupt`, its cause, through typer, which would turn that into an exit code."""


class LazyGroup(TyperGroup):
    """Imports a command when it is invoked: listing needs only the table above."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What `--help` lists: the name and its line. Nothing is imported."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=COMMANDS[cmd_name])

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """What runs (and completes): the real command, imported now."""
        name = args[0]
        if name not in COMMANDS:
            hint = suggest(name, COMMANDS) or f"Commands: {', '.join(COMMANDS)}."
            raise UsageError(f"there is no command {name!r}. {hint} See: vertebra --help")
        module = import_module(f"vertebra.cli.{name}")
        loaded = typer.main.get_command(module.app)
        loaded.name = name
        return name, loaded, args[1:]

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Interrupted from stop


# Plain help: rich's would cost 0.1 s at each --help.
app = typer.Typer(cls=LazyGroup, rich_markup_mode=None)


def command() -> Any:
    """The whole command line as one command object."""
    return typer.main.get_command(app)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vertebra {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def vertebra(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere on the line.")
    ] = False,
) -> None:
    """Six classic image-classification networks: read, measure, train and ship them."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
