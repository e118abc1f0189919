"""What the files of a result are called: as its experiment, and what makes it another result than that of `lab run`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LONGEST = 80  # characters of what is added; file systems allow 255 bytes in all


def file_stem(stem: str, settings: Mapping[str, Any], seeds: int | None) -> str:
    """`"01-vgg-parameters"`, of one's own network `"01-vgg-parameters-small"`; the settings are those of a `Result`.

    Networks, photos, `seeds` (None: as many as the claim says), "quick" and "cuda", in ASCII, without spaces or
    slashes. Where that leaves something out, eight digits of a checksum end it.
    """
    parts = list(settings["models"])
    parts += [Path(settings["data"]).name] if settings["data"] else []
    parts += [f"{seeds}-seeds"] if seeds is not None else []
    parts += ["quick"] if settings["quick"] else []
    parts += [settings["device"]] if settings["device"] != "cpu" else []
    added = "-".join(parts)
    shown = re.sub(r"[^A-Za-z0-9._]+", "-", added)[:_LONGEST].strip("-.")
    if shown != added:
        shown = f"{shown}-{hashlib.sha256(added.encode('utf-8', 'replace')).hexdigest()[:8]}".lstrip("-")
    return f"{stem}-{shown}" if shown else stem
