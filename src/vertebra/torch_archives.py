"""Detect torch files that hold a whole network instead of weights, by names and opcodes, without running any code.

Standard library only.
"""

from __future__ import annotations

import pickletools
import zipfile
from itertools import islice
from pathlib import Path
from zlib import error as ZlibError

_MAX_START = 65_536  # bytes of a pickle that are read


def describe_whole_network(path: Path) -> str:
    """Describe the whole network in a file: "a TorchScript program"; "" for weights and unrecognised files."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") or "/code/__torch__" in name for name in names):
                return "a TorchScript program"
            data = next((name for name in names if name.endswith("/data.pkl")), None)
            if data is None:
                return ""
            with archive.open(data) as file:
                start = file.read(_MAX_START)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, ZlibError, EOFError):
        return ""
    # The class of the outermost object comes first; a dict has an opcode of its own.
    try:
        opening = [(code.name, value) for code, value, _ in islice(pickletools.genops(start), 2)]
    except (ValueError, UnicodeDecodeError):
        return ""
    if len(opening) < 2 or opening[1][0] != "GLOBAL":
        return ""
    module, _, name = str(opening[1][1]).partition(" ")
    if module == "collections" or module.startswith("torch._"):  # a dict, a single tensor
        return ""
    return f"a pickled object of the class {module}.{name}"
