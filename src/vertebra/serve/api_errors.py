"""Error responses."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response

UNEXPECTED = "an unexpected error occurred; the server's log has the details."


class ApiError(Exception):
    """An error response: status, message and optional headers."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    def response(self) -> Response:
        """The error as JSON."""
        return Response(error_body(self.message), self.status, self.headers, "application/json")


class BusyError(ApiError):
    """503: the server has no room or no time for the request now."""

    def __init__(self, message: str, retry_seconds: float) -> None:
        super().__init__(503, message, {"Retry-After": str(max(1, round(retry_seconds + 0.5)))})


def error_body(message: str) -> bytes:
    """`{"error": {"message": …}}`."""
    return json.dumps({"error": {"message": message}}, ensure_ascii=False).encode()
