"""How Pillow reads the stored values of a file, tile by tile, and where it has to be told to read them otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from PIL import Image, ImagePalette

# TIFF 6.0: tags.
_BITS_PER_SAMPLE, _COLOUR_MAP = 258, 320


def rawmode_of(image: Image.Image) -> str:
    """How the first tile is stored, in Pillow's words; empty where the image is loaded already."""
    tiles: Any = getattr(image, "tile", None)
    return rawmode(tiles[0]) if tiles else ""


def rawmode(tile: Any) -> str:
    """How a tile is stored, in Pillow's words."""
    return str(tile.args[0] if isinstance(tile.args, tuple) and tile.args else tile.args or "")


def largest_value(value: Any) -> int | None:
    """The largest of the numbers that a TIFF tag holds; None where it holds none."""
    values = value if isinstance(value, tuple | list) else (value,)
    found = [int(v) for v in values if isinstance(v, int | float) and v == v and abs(v) < 1e9]
    return max(found) if found else None


@contextmanager
def from_start(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The file at its first byte, and where it stood once the block has ended."""
    before = file.tell()
    file.seek(0)
    try:
        yield file
    finally:
        file.seek(before)


def reopened(
    file: IO[bytes], image: Image.Image, rawmodes: dict[str, str], *, mode: str | None = None, tiles: Any = None
) -> Image.Image:
    """The picture of a file read again, its tiles in other raw modes."""
    with from_start(file), Image.open(file, formats=[image.format or ""]) as again:
        fix_misread_tiff(again)
        if mode is not None:
            again._mode = mode
        again.tile = tiles or [_renamed(tile, rawmodes) for tile in again.tile]
        again.load()
        return again


def _renamed(tile: Any, rawmodes: dict[str, str]) -> Any:
    name = rawmodes.get(rawmode(tile), rawmode(tile))
    return tile._replace(args=(name, *tile.args[1:]) if isinstance(tile.args, tuple) else name)


def fix_misread_tiff(image: Image.Image) -> None:
    """Before a TIFF is loaded: planes of 16 bits that Pillow reads as such of 8, and colour maps of 8 bits as of 16."""
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
        # Colours of 16 bits that are all nearly black: written as bytes, as libtiff takes them too.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
