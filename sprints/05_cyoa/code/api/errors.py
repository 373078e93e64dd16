"""Errors as application/problem+json (RFC 9457). Nothing that a client sent is ever repeated in one."""

import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from ..engines.base import EngineError, QueueFull

CODES = {400: "bad_json", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "not_allowed", 408: "slow", 409: "conflict"}
CODES |= {413: "too_large", 422: "invalid", 429: "too_many", 500: "engine", 502: "engine", 503: "busy", 504: "engine_timeout"}
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
}
TITLES |= {409: "Conflict", 413: "Content Too Large", 422: "Unprocessable Content", 429: "Too Many Requests"}
TITLES |= {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}
MEDIA = "application/problem+json"
RETRIED = {429, 503}


class ApiError(Exception):
    """An error for the client. `retry_after` in seconds goes with 429 and 503."""

    def __init__(self, status: int, detail: str, code: str = "", retry_after: float = 1, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.detail, self.code, self.headers = status, detail, code or CODES[status], dict(headers or {})
        self.retry_after = max(1, math.ceil(retry_after)) if status in RETRIED else None
        if self.retry_after:
            self.headers["Retry-After"] = str(self.retry_after)

    def body(self) -> dict[str, Any]:
        title = TITLES[self.status]
        return {"type": "about:blank", "title": title, "status": self.status, "code": self.code, "detail": self.detail}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, self.headers, MEDIA)


def of_engine(error: EngineError) -> ApiError:
    """What an engine's error is to a client."""
    if isinstance(error, QueueFull):
        return ApiError(503, str(error), retry_after=error.retry_after)
    return ApiError(error.status, str(error), code="invalid" if error.status == 400 else "")


def _invalid(error: RequestValidationError) -> ApiError:
    """Field and reason, without the value; a field that we do not know is not named either."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not JSON")
    places = first["loc"][1:] if first["type"] != "extra_forbidden" else first["loc"][1:-1]
    place = ".".join(str(part) for part in places if len(str(part)) <= 20)
    reasons = {
        "extra_forbidden": "unknown field",
        "uuid_parsing": "no UUID",
        "value_error": str(first["msg"]).removeprefix("Value error, "),
    }
    reason = reasons.get(first["type"]) or str(first["msg"])
    return ApiError(422, f"{place}: {reason}" if place else reason)


def install(app: FastAPI) -> None:
    """Make the app answer every error this way."""

    async def problem(_: Request, error: Any):
        return error.response()

    async def engine(_: Request, error: Any):
        return of_engine(error).response()

    async def invalid(_: Request, error: Any):
        return _invalid(error).response()

    async def http(_: Request, error: Any):
        status = error.status_code if error.status_code in CODES else 400
        detail = "the body is not JSON" if status == 400 else TITLES[status].lower()
        return ApiError(status, detail, headers=error.headers).response()

    async def store(_: Request, error: Any):
        return ApiError(503, "the store does not answer", code="store", retry_after=5).response()

    async def unknown(_: Request, error: Any):
        return ApiError(500, "something went wrong here: the server's log says what").response()

    app.add_exception_handler(Exception, unknown)
    app.add_exception_handler(ApiError, problem)
    app.add_exception_handler(EngineError, engine)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(OperationalError, store)


RESPONSES: dict[int | str, dict[str, Any]] = {  # for the OpenAPI document
    status: {
        "description": TITLES[status],
        "content": {
            MEDIA: {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "code", "detail"],
                    "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": {"const": status}}
                    | {"code": {"type": "string"}, "detail": {"type": "string"}},
                }
            }
        },
    }
    for status in TITLES
    if status not in (405, 500)
}
