"""The checksum of a model's file, over every byte of it.

The last entry of the card in an exported file, `content_sha256`, is the SHA-256 of the whole file with zeros in the
place of its own 64 digits. Files of older versions have none, and are not checked.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import IO

from vertebra.cache import is_verified, record_verified
from vertebra.card import Card, CardError, locate_card, open_model_file, parse_card
from vertebra.protobuf import Span, read_content

BLANK = "0" * 64  # what the card says while its file's checksum is taken
_PIECE = 1 << 20  # bytes that are read at once


class DamagedError(CardError):
    """A model's file is not as it was exported."""


def insert_checksum(model: bytes) -> tuple[bytes, str]:
    """An ONNX file whose card has `BLANK` as its checksum → the file with its own, and that."""
    file = io.BytesIO(model)
    place = locate_card(file)
    at = None if place is None else _checksum_offset(file, place, BLANK)
    if at is None:
        raise ValueError("the card has no place for a checksum")
    _, digest = _compute_digests(file, at)
    return b"".join((model[:at], digest.encode(), model[at + len(BLANK) :])), digest


def read_verified_card(path: str | os.PathLike[str]) -> Card:
    """The card of a file that is to predict, once its checksum is verified; the cache has that for each file state.

    Raises:
        DamagedError: the file is not as it was exported.
        CardError: as `read_card` does.
    """
    return _read_verified(path, use_cache=True)


def verify(path: str | os.PathLike[str]) -> Card:
    """As `read_verified_card`, without the cache; a card without `content_sha256` cannot be verified."""
    return _read_verified(path, use_cache=False)


def _read_verified(path: str | os.PathLike[str], *, use_cache: bool) -> Card:
    with open_model_file(path) as file:
        place = locate_card(file)
        card = parse_card(file, place, os.fspath(path))
        if card.content_sha256 is not None and place is not None:
            # Before the bytes: of a file that is written to meanwhile it is no longer the status.
            status = os.fstat(file.fileno())
            if not use_cache or not is_verified(Path(path), status):
                record_verified(Path(path), status, _verify_checksum(Path(path), file, place, card.content_sha256))
        return card


def _verify_checksum(path: Path, file: IO[bytes], place: Span, wanted: str) -> str:
    """The SHA-256 of the whole file, once that of its contents is verified."""
    at = _checksum_offset(file, place, wanted)
    if at is None:
        # Another program has written the file.
        raise _damaged(path, "its card does not end in its checksum")
    whole, found = _compute_digests(file, at)
    if found != wanted:
        raise _damaged(path, f"the SHA-256 of its contents is {found[:12]}…, and its card says {wanted[:12]}…")
    return whole


def _damaged(path: Path, reason: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged, or was changed after it was exported ({reason}). Copy it again from where it is whole, "
        "or export the network again with: vertebra export NAME|CHECKPOINT --out FILE.onnx"
    )


def _checksum_offset(file: IO[bytes], place: Span, digest: str) -> int | None:
    """Where in the file the digits of the checksum begin; None where the card does not end in them."""
    end = f"{json.dumps('content_sha256')}: {json.dumps(digest)}}}".encode()
    start = place[1] - len(end)
    if start < place[0] or read_content(file, (start, place[1])) != end:
        return None
    return place[1] - len(b'"}') - len(digest)


def _compute_digests(file: IO[bytes], at: int) -> tuple[str, str]:
    """SHA-256 of a file as it is, and with zeros in the place of the 64 digits at `at`; one pass up to there."""
    import hashlib

    whole = hashlib.sha256()
    file.seek(0)
    while at > file.tell():
        whole.update(_read_chunk(file, min(_PIECE, at - file.tell())))
    blank = whole.copy()
    whole.update(_read_chunk(file, len(BLANK)))
    blank.update(BLANK.encode())
    while piece := file.read(_PIECE):
        whole.update(piece)
        blank.update(piece)
    return whole.hexdigest(), blank.hexdigest()


def _read_chunk(file: IO[bytes], size: int) -> bytes:
    piece = file.read(size)
    if not piece:
        raise ValueError("cut short while it is read")
    return piece
