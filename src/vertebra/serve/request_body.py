"""Reading of request bodies, whose size, time and memory are limited while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.types import Receive

from .api_errors import ApiError, BusyError
from .server_settings import ServerSettings


class BodyReader:
    """Reads request bodies; together they stay below `ServerSettings.max_body_bytes`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.num_bytes = 0  # of all bodies in memory

    @asynccontextmanager
    async def read(self, receive: Receive, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The complete body, in memory until the block ends.

        Raises:
            ApiError: 400 incomplete, 408 too slow, 413 too large, 415 compressed, 503 no memory for it now.
        """
        limit = self.settings.max_bytes
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise ApiError(415, f"the body is compressed ({encoding[:40]!r}); send it uncompressed.")
        announced = headers.get("content-length", "")
        expected = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
        if expected > limit:
            raise _too_large(limit)
        reserved = self._reserve(expected)
        try:
            parts, size, more = [], 0, True
            try:
                async with asyncio.timeout(self.settings.read_seconds):
                    while more:
                        message = await receive()
                        parts.append(message.get("body", b""))
                        size += len(parts[-1])
                        if size > limit:
                            raise _too_large(limit)
                        reserved += self._reserve(max(0, size - reserved))
                        more = message.get("more_body", False)
            except TimeoutError:
                raise ApiError(
                    408,
                    f"the body was not complete after {self.settings.read_seconds:g} seconds. Send it faster, or less.",
                    {"Connection": "close"},
                ) from None
            if message["type"] != "http.request":
                raise ApiError(400, "the connection ended before the body did.")
            body = b"".join(parts)
            del message, parts  # otherwise the body would be in memory twice
            yield body
        finally:
            self.num_bytes -= reserved

    def _reserve(self, count: int) -> int:
        if self.num_bytes + count > self.settings.max_body_bytes:
            raise BusyError("the memory for request bodies is full. Try again.", 1)
        self.num_bytes += count
        return count


def _too_large(limit: int) -> ApiError:
    # The rest of the body is not read, so the connection cannot be reused.
    return ApiError(
        413,
        f"the body has more than {limit:,} bytes, the maximum. Send fewer images at a time.",
        {"Connection": "close"},
    )
