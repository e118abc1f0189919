"""The option `--ray`, whose address may be left out."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

_ADDRESS = re.compile(r"local|auto|ray://\S+|([\w.-]+|\[[0-9a-fA-F:]+\]):\d+|\d+\.\d+\.\d+\.\d+")


class OptionalAddress(TyperCommand):
    """A command whose `--ray` takes an address or none: `--ray photos/` is `--ray local photos/`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Add `local` where no address follows."""
        end = args.index("--") if "--" in args else len(args)
        for place in reversed(range(end)):
            if args[place] == "--ray" and not (place + 1 < end and _ADDRESS.fullmatch(args[place + 1])):
                args = [*args[: place + 1], "local", *args[place + 1 :]]
        return super().parse_args(ctx, args)
