"""``/v1/sessions``: look at memories and delete them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from stm_rl_agents.serving.errors import ApiError
from stm_rl_agents.serving.history import ASSISTANT
from stm_rl_agents.serving.routes_chat import REFUSALS
from stm_rl_agents.serving.schemas import Deleted, Line, MemoryView, SessionEntry, SessionId, SessionPage
from stm_rl_agents.serving.session import LiveSession
from stm_rl_agents.serving.sessions import Sessions, slots_of
from stm_rl_agents.serving.settings import ServeSettings

Id = Annotated[SessionId, Path(alias="id")]


def session_routes(settings: ServeSettings, sessions: Sessions) -> APIRouter:
    """Return the routes of sessions; each client sees its own."""
    routes = APIRouter(prefix="/v1/sessions", tags=["sessions"], responses=REFUSALS)
    slots = settings.memory.slots

    @routes.get("")
    async def page(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[SessionId | None, Query()] = None,
    ) -> SessionPage:
        """List sessions by id; ``after`` is the last id of the page before."""
        rows = await sessions.page(request.state.owner, after or "", limit + 1)
        data = [SessionEntry(id=id, turns=turns, created=made, used=used) for id, turns, made, used in rows]
        return SessionPage(data=data[:limit], has_more=len(data) > limit)

    @routes.get("/{id}/memory")
    async def look(request: Request, session: Id) -> MemoryView:
        """Show slots and window, as they were after the last answer."""

        def see(memory: LiveSession) -> MemoryView:
            return MemoryView(
                session=session,
                turns=memory.turns,
                slots=slots_of(memory),
                window=[Line(speaker=turn.speaker, text=turn.text) for turn in memory.context(ASSISTANT).window],
            )

        return await sessions.look(request.state.owner, session, see)

    @routes.delete("/{id}/memory")
    async def clear(request: Request, session: Id) -> Deleted:
        """Empty every slot; the window stays."""
        await sessions.change(request.state.owner, session, LiveSession.clear)
        return Deleted(session=session, deleted=True)

    @routes.delete("/{id}/memory/{slot}")
    async def forget(request: Request, session: Id, slot: int) -> Deleted:
        """Empty one slot."""
        if not 1 <= slot <= slots:
            raise ApiError(404, f"there is no slot {slot}; expected 1 to {slots}", "slot_not_found")
        await sessions.change(request.state.owner, session, lambda memory: memory.forget(slot))
        return Deleted(session=session, deleted=True)

    @routes.delete("/{id}")
    async def delete(request: Request, session: Id) -> Deleted:
        """Delete a session with all that is known of it."""
        await sessions.delete(request.state.owner, session)
        return Deleted(session=session, deleted=True)

    return routes
