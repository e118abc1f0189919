"""What is wrong with a file that cannot be decoded: whatever Pillow raises becomes an `ImageError` that names it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from PIL import Image, UnidentifiedImageError

from vertebra.bit_depth import DepthError
from vertebra.errors import ImageError, first_line
from vertebra.file_kinds import detect_kind
from vertebra.photo_files import FORMATS, image_format


class OversizeError(ImageError):
    """An image has more pixels than are allowed."""


class UnsupportedError(ImageError):
    """An image of a kind that is not decoded here, such as a JPEG of 12 bits."""


@contextmanager
def convert_decoding_errors(name: str, file: IO[bytes] | None) -> Iterator[None]:
    """Whatever Pillow raises becomes an `ImageError` that names the file."""
    try:
        yield
    except DepthError as error:
        raise UnsupportedError(f"{name} {error}") from error
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own check comes first where its limit is no higher than ours; its message has the number of pixels.
        raise ImageError(f"{name} has too many pixels: {first_line(error)}") from error
    except UnidentifiedImageError as error:
        found = _describe_unsupported(file, name) if file is not None else None
        if found:
            raise UnsupportedError(f"{name} {found}") from error
        raise ImageError(f"{name} {_describe_content(file) if file is not None else 'is not an image'}") from error
    except MemoryError as error:
        raise ImageError(f"{name} cannot be decoded: there is not enough memory") from error
    except Exception as error:
        # Damaged files make Pillow's readers raise nearly anything (struct.error, KeyError, SyntaxError, …), and one
        # bad photo must never stop a run.
        raise ImageError(f"{name} is damaged or truncated ({first_line(error)})") from error


def _describe_unsupported(file: IO[bytes], name: str) -> str | None:
    """What an image is that Pillow has no decoder for, or None for what may be none at all."""
    file.seek(0)
    head = file.read(1 << 16)
    found = "JPEG XL" if head.startswith(b"\xff\x0a") else image_format(head)  # bare; two bytes are too few elsewhere
    if found is not None and found not in FORMATS:
        return f"is a {found} image, which is not decoded. Save it as a JPEG"
    if found is None and (kind := detect_kind(head, name)) is not None:
        return kind.refusal
    order = "<" if head[:2] == b"II" else ">"
    if head[:4] in (b"II*\0", b"MM\0*") and struct.unpack(order + "I", head[4:8].ljust(4, b"\0"))[0] < file.seek(0, 2):
        return "is a TIFF image whose kind of values is not decoded. Save it as one of 8 or 16 bits, or as a PNG"
    if head[:2] == b"\xff\xd8":
        place = 2
        while place + 9 < len(head) and head[place] == 0xFF:
            marker, length = head[place + 1], int.from_bytes(head[place + 2 : place + 4], "big")
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and head[place + 4] != 8:
                return f"is a JPEG of {head[place + 4]} bits, and only those of 8 are decoded. Save it as a 16-bit PNG"
            place += 2 + length
    return None


def _describe_content(file: IO[bytes]) -> str:
    """Say what a file is that is not an image."""
    file.seek(0)
    head = file.read(512)
    if not head:
        return "is empty"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the image that it stands for: run git lfs pull"
    if (known := image_format(head)) in FORMATS:
        return f"is a {known} image that is damaged or truncated"
    text = not any(byte < 9 or 13 < byte < 32 for byte in head)
    found = "is a text file, not an image" if text else "is not an image in a known format"
    return f"{found} (known: {', '.join(FORMATS)})"
