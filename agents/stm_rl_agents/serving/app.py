"""The server: OpenAI's chat completions with one bounded memory for each session."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import stm_rl
from stm_rl_agents.base import Agent
from stm_rl_agents.serving.backends import Backend
from stm_rl_agents.serving.chat import Chats
from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.metrics import Metrics
from stm_rl_agents.serving.routes_chat import chat_routes
from stm_rl_agents.serving.routes_sessions import session_routes
from stm_rl_agents.serving.routes_state import page_routes, state_routes
from stm_rl_agents.serving.security import Guard
from stm_rl_agents.serving.sessions import Sessions
from stm_rl_agents.serving.settings import ServeSettings

logger = logging.getLogger(__name__)


def create_app(settings: ServeSettings, agent: Agent, backend: Backend) -> FastAPI:
    """Return the server.

    Args:
        settings: Where it listens, limits and tokens.
        agent: Keeps the memories.
        backend: The model that answers.

    Raises:
        StmError: The file of sessions cannot be used, or the agent does not fit the memory.
    """
    metrics = Metrics()
    sessions = Sessions(settings, agent, metrics)
    chats = Chats(sessions, backend, metrics, settings.max_concurrent)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await chats.close()
        await backend.close()
        await sessions.close()

    app = FastAPI(
        title="stm-rl",
        version=stm_rl.__version__,
        description="Chat completions whose sessions keep a bounded memory, tended by a policy.",
        lifespan=lifespan,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(chat_routes(settings, chats, backend))
    app.include_router(session_routes(settings, sessions))
    app.include_router(state_routes(sessions, backend, metrics))
    app.include_router(page_routes())
    _tell_errors(app)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


def _tell_errors(app: FastAPI) -> None:
    """Let every error have OpenAI's form."""

    def told(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return told(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
        return told(ApiError(400, f"{where or 'the body'}: {first['msg']}{more}", "invalid_request"))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        told_error = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}", code)
        told_error.headers.update(error.headers or {})
        return told(told_error)

    @app.exception_handler(sqlite3.Error)
    async def broken(request: Request, error: sqlite3.Error) -> JSONResponse:
        logger.error("the file of sessions cannot be used: %s", error)
        return told(ApiError(503, "sessions cannot be stored at the moment; try again later", "storage_error"))
