"""A folder of photos of which one kills the process that decodes it, in processes that Ray has started."""

from __future__ import annotations

import os
from pathlib import Path

# Of a photo of 13 × 77 pixels a process of Ray dies when it decodes it, as one may of a fault of a decoder in C.
_SHIM = """
import os, sys
from PIL import Image

opened = Image.open

def deadly(*arguments, **options):
    picture = opened(*arguments, **options)
    if picture.size == (13, 77) and sys.argv[0].endswith("default_worker.py"):
        os._exit(11)
    return picture

Image.open = deadly
"""


def made(place: Path) -> tuple[dict[str, str], Path]:
    """Return the variables under which `red/deadly.png` of 17 photos kills, and the folder of these."""
    from PIL import Image

    (place / "shim").mkdir()
    (place / "shim" / "sitecustomize.py").write_text(_SHIM)
    folder = place / "photos"
    for label in ("red", "blue"):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (40, 40 + number), label).save(folder / label / f"{number}.png")
    Image.new("RGB", (13, 77), "red").save(folder / "red" / "deadly.png")
    path = os.pathsep.join(filter(None, [str(place / "shim"), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path, "VERTEBRA_CACHE": str(place / "cache")}, folder
