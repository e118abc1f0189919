"""The bytes of a request's body, within limits that hold while the body still comes in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.types import Receive

from .api_errors import ApiError, BusyError
from .server_settings import ServerSettings


class BodyReader:
    """Reads bodies; all that are in memory at a time stay below a limit."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.held = 0  # bytes

    @asynccontextmanager
    async def read(self, receive: Receive, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The whole body, in memory until the block ends.

        Raises:
            ApiError: 413 too large, 408 too slow, 503 no memory for it now, 415 compressed, 400 broken off.
        """
        limit = self.settings.max_bytes
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise ApiError(415, f"the body is compressed ({encoding[:40]!r}); send it as it is.")
        announced = headers.get("content-length", "")
        expected = int(announced) if announced.isdecimal() and len(announced) < 20 else 0
        if expected > limit:
            raise _too_large(limit)
        held = self._hold(expected)
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
                        held += self._hold(max(0, size - held))
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
            del message, parts  # or the body would be in memory twice
            yield body
        finally:
            self.held -= held

    def _hold(self, count: int) -> int:
        if self.held + count > self.settings.max_body_bytes:
            raise BusyError("the memory for request bodies is full. Try again.", 1)
        self.held += count
        return count


def _too_large(limit: int) -> ApiError:
    # What still comes is not read: the connection cannot be used again.
    return ApiError(
        413,
        f"the body has more than {limit:,} bytes, the most that is taken. Send fewer images at a time.",
        {"Connection": "close"},
    )
