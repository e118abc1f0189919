"""Numbers as the page stores them: few digits in JSON, or bytes as base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor


def rounded(value: float, digits: int = 6) -> float:
    """To so many significant digits: those that float32 has, unless said otherwise."""
    return float(f"{value:.{digits}g}")


def quantised(values: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Values as bytes: 0 stands for `low`, 255 for `high` and what is above; all are 0 where the two are the same.

    value = low + byte / 255 × (high − low), to half a step.
    """
    spread = torch.as_tensor(high - low)
    return ((values - low) / spread.where(spread > 0, torch.inf) * 255).round().clamp(0, 255).to(torch.uint8)


def deflated(values: Tensor) -> str:
    """Bytes (uint8) in row-major order, deflated by zlib, as base64."""
    return base64_text(zlib.compress(values.contiguous().numpy().tobytes()))


_HEADER, _END = zlib.compress(b"")[:2], zlib.compress(b"")[2:-4]  # of a stream in zlib's format
AROUND_PIECES = len(_HEADER) + len(_END) + 4  # bytes that `joined` adds, before base64


def deflated_piece(values: Tensor) -> bytes:
    """Bytes (uint8) deflated on their own, so that `joined` can follow them with any other."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(values.contiguous().numpy().tobytes()) + stream.flush(zlib.Z_FULL_FLUSH)


def joined(pieces: Sequence[bytes], values: Tensor) -> str:
    """What `deflated` would give for the values of all these pieces together, a little longer."""
    check = zlib.adler32(values.contiguous().numpy().tobytes()).to_bytes(4, "big")
    return base64_text(b"".join((_HEADER, *pieces, _END, check)))


def base64_length(count: int) -> int:
    """Characters of so many bytes as base64."""
    return -(-count // 3) * 4


def data_url(kind: str, content: bytes) -> str:
    """An image of this format, such as "png"."""
    return f"data:image/{kind};base64,{base64_text(content)}"


def base64_text(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode("ascii")
