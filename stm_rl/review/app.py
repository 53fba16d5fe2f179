"""The web application of the review page: a few small answers, none of which says which text is which."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from stm_rl.comparison.continuation import Continuation
from stm_rl.errors import StmError
from stm_rl.review.store import SKIP, TIE, Rating, Store
from stm_rl.review.tasks import Tasks
from stm_rl.web import LoopbackGuard

PAGES = {
    "index.html": "text/html; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files of the page and what they are. No other file is ever served."""
MAX_BODY = 4096
"""Most bytes of a request."""

RATER = r"[\w.-]([\w .-]{0,38}[\w.-])?"
"""What a rater may be called."""

Rater = Annotated[str, Field(pattern=f"^{RATER}$")]
Mark = Annotated[int, Field(ge=1, le=5)]
Marks = Annotated[list[Mark], Field(min_length=2, max_length=2)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Aspects(_Body):
    """Marks of the first and the second text; what is not given was not rated."""

    coherence: Marks | None = None
    consistency: Marks | None = None
    relevance: Marks | None = None

    def given(self) -> dict[str, tuple[int, int]]:
        """Return the marks that were given."""
        return {name: (value[0], value[1]) for name, value in self.model_dump(exclude_none=True).items()}


class Answer(_Body):
    """What a rater says of a pair."""

    rater: Rater
    item: Annotated[str, Field(min_length=1, max_length=64)]
    choice: Literal["first", "second", "tie", "skip"]
    aspects: Aspects = Aspects()
    seconds: Annotated[float, Field(ge=0, le=86_400)] = 0.0


class Undo(_Body):
    """Who takes back the last rating."""

    rater: Rater


def create_app(tasks: Tasks, store: Store) -> FastAPI:
    """Return the application.

    Args:
        tasks: What raters are shown.
        store: Where ratings are kept.
    """
    app = FastAPI(title="stm-rl review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(LoopbackGuard, max_body=MAX_BODY)
    contents = {name: (files("stm_rl.review") / "page" / name).read_bytes() for name in PAGES}

    @app.exception_handler(StmError)
    def failed(_: Request, error: StmError) -> JSONResponse:
        return _error(500, str(error))

    @app.exception_handler(HTTPException)
    def refused(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return _error(422, f"{where}: {first['msg']}")

    @app.get("/")
    def index() -> Response:
        return _page("index.html")

    @app.get("/page/{name}")
    def page(name: str) -> Response:
        return _page(name)

    def _page(name: str) -> Response:
        if name not in contents:
            raise HTTPException(404, "there is no such page")
        return Response(contents[name], media_type=PAGES[name])

    @app.get("/api/next")
    def next_pair(rater: Annotated[Rater, Query()]) -> dict[str, Any]:
        """Return the next pair of a rater, and how far the rater is."""
        return _status(rater)

    @app.post("/api/ratings")
    def rate(answer: Answer) -> dict[str, Any]:
        """Keep a rating; return the next pair. The same rating sent again is kept once."""
        if answer.item not in tasks.items:
            raise HTTPException(404, "this pair is not part of the review; reload the page")
        given = {} if answer.choice == SKIP else answer.aspects.given()
        first, _ = tasks.sides(answer.rater, answer.item)
        rating = Rating(answer.rater, answer.item, first, answer.choice, given, answer.seconds)
        if not store.add(rating):
            kept = store.get(answer.rater, answer.item)
            if kept is None or (kept.choice, kept.aspects) != (rating.choice, rating.aspects):
                raise HTTPException(409, "you rated this pair already, otherwise; undo that first, or reload the page")
        return _status(answer.rater)

    @app.post("/api/undo")
    def undo(body: Undo) -> dict[str, Any]:
        """Take back the last rating of a rater, and return its pair with what was said of it."""
        rating = store.undo(body.rater)
        if rating is None:
            raise HTTPException(404, "there is nothing to undo")
        if rating.item not in tasks.items:
            return _status(body.rater)
        given = {"choice": rating.choice, "aspects": rating.aspects}
        return {**_status(body.rater), "item": _shown(tasks, body.rater, rating.item), "given": given, "end": None}

    def _status(rater: str) -> dict[str, Any]:
        """Return the next pair that a rater has not rated; after the last, what the rater preferred."""
        mine = {rating.item: rating for rating in store.ratings(rater) if rating.item in tasks.items}
        left = [item for item in tasks.queue(rater) if item not in mine]
        return {
            "total": len(tasks.items),
            "done": len(mine),
            "item": _shown(tasks, rater, left[0]) if left else None,
            "given": None,
            "end": None if left else _end(list(mine.values())),
        }

    return app


def _shown(tasks: Tasks, rater: str, item: str) -> dict[str, Any]:
    """Return all that a rater gets to see of a pair: never what was read, nor what the measures say."""
    one: Continuation = tasks.items[item]
    older = one.before[: len(one.before) - len(one.window)]
    first, second = (one.text(side) for side in tasks.sides(rater, item))
    return {
        "item": item,
        "kind": one.kind,
        "speaker": one.speaker,
        "history": older,
        "window": one.window,
        "first": first,
        "second": second,
    }


def _end(mine: list[Rating]) -> dict[str, int]:
    """Return what a rater preferred, which is told when everything is rated."""
    decided = [rating.memory_won for rating in mine]
    return {
        "memory": decided.count(True),
        "none": decided.count(False),
        "ties": sum(rating.choice == TIE for rating in mine),
        "skipped": sum(rating.choice == SKIP for rating in mine),
    }


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status)
