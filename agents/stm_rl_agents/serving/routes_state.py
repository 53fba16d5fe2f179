"""Health, readiness and metrics; and the page."""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from stm_rl_agents.serving.backends import Backend
from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.metrics import Metrics
from stm_rl_agents.serving.routes_chat import REFUSALS
from stm_rl_agents.serving.schemas import Health
from stm_rl_agents.serving.sessions import Sessions

PAGE = Path(__file__).parent / "page"
START = "index.html"


def state_routes(sessions: Sessions, backend: Backend, metrics: Metrics) -> APIRouter:
    """Return the routes for those who run the server."""
    routes = APIRouter(tags=["state"], responses=REFUSALS)

    @routes.get("/health")
    async def health() -> Health:
        """Say that the server runs."""
        return Health(status="ok")

    @routes.get("/ready")
    async def ready() -> Health:
        """Say whether chats can be answered: sessions can be read and the model is there."""
        await sessions.count()
        if not await backend.ready():
            raise ApiError(503, "the model cannot be reached", "not_ready")
        return Health(status="ready")

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def counted() -> Response:
        """Give all counters to Prometheus."""
        metrics.stored.set(await sessions.count())
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def page_routes() -> APIRouter:
    """Return the routes of the page: the files that are there now, and no others."""
    routes = APIRouter(include_in_schema=False)
    files = {path.name: path for path in sorted(PAGE.glob("*")) if path.is_file()}

    def file(name: str) -> FileResponse:
        path = files.get(name)
        if path is None:
            raise ApiError(404, f"the page has no file {name[:80]!r}", "not_found")
        return FileResponse(path, media_type=mimetypes.guess_type(name)[0] or "application/octet-stream")

    @routes.get("/")
    async def start() -> FileResponse:
        return file(START)

    @routes.get("/page/{name}")
    async def part(name: str) -> FileResponse:
        return file(name)

    return routes
