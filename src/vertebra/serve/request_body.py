"""The bytes of a request's body, within limits that hold while the body still comes in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .api_errors import ApiError, BusyError
from .server_settings import Settings

Receive = Callable[[], Awaitable[Any]]


class BodyReader:
    """Reads bodies; all that are in memory at a time stay below a limit."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held = 0  # bytes

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> tuple[bytes, int]:
        """The whole body, and the bytes held for it, which must be given back to `release`.

        Raises:
            ApiError: 413 too large, 408 too slow, 503 no memory for it now, 415 compressed, 400 broken off.
        """
        limit = self.settings.max_bytes
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise ApiError(415, f"the body is compressed ({encoding[:40]!r}); send it as it is.")
        announced = headers.get("content-length", "")
        expected = int(announced) if announced.isdecimal() and len(announced) < 20 else None
        if expected is not None and expected > limit:
            raise _too_large(limit)
        held = 0
        try:
            held = self._hold(expected or 0)
            async with asyncio.timeout(self.settings.read_seconds):
                message = await receive()
                body = message.get("body", b"")
                parts, size = [body], len(body)
                while message.get("more_body"):
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise _too_large(limit)
                    if size > held:
                        held += self._hold(size - held)
            if len(parts) > 1:
                body = b"".join(parts)
            if message["type"] != "http.request":
                raise ApiError(400, "the connection ended before the body did.")
            if len(body) > limit:
                raise _too_large(limit)
            if len(body) > held:
                held += self._hold(len(body) - held)
        except TimeoutError:
            self.release(held)
            raise ApiError(
                408,
                f"the body was not complete after {self.settings.read_seconds:g} seconds. Send it faster, or less.",
                {"Connection": "close"},
            ) from None
        except BaseException:
            self.release(held)
            raise
        return body, held

    def _hold(self, count: int) -> int:
        if self.held + count > self.settings.max_body_bytes:
            raise BusyError("the memory for request bodies is full. Try again.", 1)
        self.held += count
        return count

    def release(self, count: int) -> None:
        """So many bytes are not in memory any more."""
        self.held -= count


def _too_large(limit: int) -> ApiError:
    # What still comes is not read: the connection cannot be used again.
    return ApiError(
        413,
        f"the body has more than {limit:,} bytes, the most that is taken. Send fewer images at a time.",
        {"Connection": "close"},
    )
