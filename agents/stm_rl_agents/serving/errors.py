"""Errors of the server, in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}
"""The type of an error by its status; that of all others is ``server_error``."""


class ApiError(Exception):
    """What a client is told instead of an answer.

    Attributes:
        status: HTTP status.
        message: What was got, what was expected and what to do; never a key or an address of the inside.
        code: A word for programs.
        headers: Headers of the answer.
    """

    def __init__(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the error as JSON values, as OpenAI's API gives it."""
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": None, "code": self.code}}
