"""Standard input, output and error, which the caller may have closed (`>&-`)."""

from __future__ import annotations

import os
import sys
from io import BufferedIOBase
from typing import cast

from vertebra.errors import UsageError


def replace_closed_streams() -> None:
    """Write to the null device what would go to a closed stream; `sys.stdin` stays None.

    The numbers of all three are taken, since the next file to be opened would get what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            os.set_inheritable(opened, opened == number)
            if name != "stdin":
                setattr(sys, name, os.fdopen(opened, "w", encoding="utf-8", errors="backslashreplace"))


def open_stdin() -> BufferedIOBase:
    """Open standard input separately: Python aborts if a stopped thread still reads from `sys.stdin`.

    Raises:
        UsageError: it is closed.
    """
    if sys.stdin is None:
        raise UsageError("- stands for standard input, which is closed. Pipe something into vertebra, or give files.")
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError, AttributeError):  # closed, or replaced by what is no file
        return cast(BufferedIOBase, sys.stdin.buffer)
