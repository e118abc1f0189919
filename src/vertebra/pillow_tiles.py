"""Pillow's raw modes of a file's tiles: read them, reopen a file with others, correct those of misread TIFFs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image, ImagePalette

# TIFF 6.0: tags.
_BITS_PER_SAMPLE, _COLOUR_MAP = 258, 320


def first_rawmode(image: Image.Image) -> str:
    """The raw mode of the first tile; empty if the image is already loaded."""
    tiles: Any = getattr(image, "tile", None)
    return rawmode(tiles[0]) if tiles else ""


def rawmode(tile: Any) -> str:
    """Pillow's raw mode of a tile."""
    return str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args or "")


def largest_value(value: Any) -> int | None:
    """The largest number in a TIFF tag, or None."""
    values = value if isinstance(value, tuple | list) else (value,)
    found = [int(v) for v in values if isinstance(v, int | float) and v == v and abs(v) < 1e9]
    return max(found) if found else None


@contextmanager
def rewound(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Seek to the first byte, and restore the position afterwards."""
    before = file.tell()
    file.seek(0)
    try:
        yield file
    finally:
        file.seek(before)


def reopen(
    file: IO[bytes], image: Image.Image, rawmodes: dict[str, str], *, mode: str | None = None, tiles: Any = None
) -> Image.Image:
    """Open and load a file again, with other raw modes for its tiles."""
    with rewound(file), Image.open(file, formats=[image.format or ""]) as again:
        fix_misread_tiff(again)
        if mode is not None:
            again._mode = mode
        again.tile = tiles or [_with_rawmode(tile, rawmodes) for tile in again.tile]
        again.load()
        return again


def _with_rawmode(tile: Any, rawmodes: dict[str, str]) -> Any:
    name = rawmodes.get(rawmode(tile), rawmode(tile))
    return tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)


def fix_misread_tiff(image: Image.Image) -> None:
    """Correct a TIFF before it is loaded: Pillow reads 16-bit planes as 8-bit, and 8-bit colour maps as 16-bit."""
    tags: Any = getattr(image, "tag_v2", {})
    if image.format != "TIFF" or not tags:
        return
    if largest_value(tags.get(_BITS_PER_SAMPLE)) == 16:
        suffix = ";16B" if tags.prefix == b"MM" else ";16L"
        image.tile = [  # type: ignore[attr-defined]
            tile._replace(args=(tile.args[0] + suffix, *tile.args[1:]))
            if tile.codec_name == "raw" and tile.args[0] in ("R", "G", "B", "A")
            else tile
            for tile in image.tile  # type: ignore[attr-defined]
        ]
    colours = tags.get(_COLOUR_MAP)
    if image.mode in ("P", "PA") and colours and max(colours) < 256:
        # 16-bit colours that are all nearly black were written as bytes; libtiff does the same.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
