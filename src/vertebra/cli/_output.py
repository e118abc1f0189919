"""What the commands print: JSON for programs, tables for people."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import indent as indented
from typing import TYPE_CHECKING, Any, TextIO

from vertebra.errors import UsageError, printable
from vertebra.strict_json import dumps

if TYPE_CHECKING:
    from rich.console import Console


_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def echo(text: str, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print text on any terminal: what its encoding lacks is escaped, and a file or a pipe gets no colours."""
    stream = file or sys.stdout
    encoding = stream.encoding or "ascii"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    stream.write((text if stream.isatty() else _STYLES.sub("", text)) + end)
    stream.flush()


def note(text: str) -> None:
    """Print a line on standard error, control characters and line breaks escaped."""
    echo(f"vertebra: {printable(text)}", file=sys.stderr)


BOLD, CYAN = 1, 36  # https://en.wikipedia.org/wiki/ANSI_escape_code#Select_Graphic_Rendition_parameters


def styled(text: str, style: int) -> str:
    """Text in that style, for `echo`."""
    return f"\x1b[{style}m{text}\x1b[0m"


def require_html_suffix(path: Path | None) -> None:
    """Raise a UsageError if the page to write (--html) is not named .html or .htm."""
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the page to write is {str(path)!r}; its name must end in .html")


def print_json(value: Any) -> None:
    """Print JSON in ASCII, so that no file name and no terminal's encoding can break it; NaN and infinity as null."""
    echo(dumps(value, indent=2))


def print_json_list(values: Iterable[Any]) -> None:
    """Print a list as `print_json` would, each value as soon as it is there and forgotten at once."""
    ends_with = "["
    for value in values:
        echo(f"{ends_with}\n{indented(dumps(value, indent=2), '  ')}", end="")
        ends_with = ","
    echo("[]" if ends_with == "[" else "\n]")


def console() -> Console:
    """Where people read: as wide as the terminal, or as wide as the text needs where the output goes elsewhere."""
    from rich.console import Console

    found = Console(highlight=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, markup=False, width=1000)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = (), texts: Sequence[str] = ()
) -> None:
    """Print a table without lines; columns named in `numbers` are aligned at the right, those in `texts` wrap."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=column not in texts)
    for row in rows:
        table.add_row(*row)
    found = console()
    if found.is_terminal:
        found.print(table)
        return
    with found.capture() as captured:
        found.print(table)
    # Spaces up to the longest cell of the last column are of no use in a file.
    echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def bar(share: float, width: int = 6) -> str:
    """A share of 1 as a bar, to an eighth of a character: `"██▌"`."""
    whole, eighths = divmod(round(min(max(share, 0.0), 1.0) * width * 8), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def print_task(task: str, done: int = 0, total: int | None = None) -> None:
    """A `Progress` that prints each task on standard error."""
    echo(printable(task), file=sys.stderr)


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines that fit the terminal, of 120 columns at most, each after `indent`."""
    from vertebra.text_width import fill

    return fill(text, line_width(), indent=indent)


def line_width() -> int:
    """Columns of the terminal, 120 at most: longer lines are hard to read."""
    import shutil

    return min(shutil.get_terminal_size().columns, 120)
