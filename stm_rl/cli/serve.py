"""``stm-rl serve``."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stm_rl.errors import StmError
from stm_rl.extras import check_extra
from stm_rl.web import listening

if TYPE_CHECKING:
    from stm_rl_agents.serving.backends import Backend

PACKAGES = ("fastapi", "httpx", "prometheus_client", "uvicorn")
STOP_SECONDS = 60
"""Requests under way have this time to end when the server stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeRequest:
    """The command-line values of ``stm-rl serve`` that are no settings of the server itself; see its ``--help``."""

    policy: str
    model: str | None
    upstream: str | None
    upstream_model: str | None
    upstream_timeout: float
    token_file: Path | None
    slots: int | None
    window: int | None
    max_new_tokens: int
    device: str
    dtype: str
    threads: int
    access_log: bool


def run_serve(request: ServeRequest, **limits: Any) -> None:
    """Serve until the process is told to stop.

    Args:
        request: What was asked for.
        **limits: Fields of :class:`stm_rl_agents.serving.settings.ServeSettings`.
    """
    check_extra("serving needs", PACKAGES, "serve")
    import torch
    import uvicorn

    from stm_rl_agents.serving import load_serving_agent
    from stm_rl_agents.serving.app import create_app
    from stm_rl_agents.serving.settings import ServeSettings, read_tokens

    tokens = read_tokens(request.token_file, os.environ.get("STM_RL_TOKEN"))
    settings = ServeSettings(tokens=tokens, **limits)  # what is wrong is said before anything is loaded
    _check_model(request)
    torch.set_num_threads(request.threads)
    agent, memory = load_serving_agent(
        request.policy, slots=request.slots, window=request.window, device=request.device, dtype=request.dtype
    )
    backend = _backend(request)
    with listening(settings.host, settings.port) as listener:
        settings = replace(settings, port=listener.getsockname()[1], memory=memory)
        app = create_app(settings, agent, backend)
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(
            f"stm-rl: {request.policy} ({memory.slots} slots, window {memory.window}) with {backend.name} on "
            f"http://{name}:{settings.port}, sessions in {settings.database}",
            file=sys.stderr,
            flush=True,
        )
        config = uvicorn.Config(
            app,
            log_level="info" if request.access_log else "warning",
            access_log=request.access_log,
            server_header=False,
            proxy_headers=False,  # anybody could claim any address
            ws="none",
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        signal.signal(signal.SIGTERM, lambda number, frame: None)  # uvicorn stops; then it hands the signal on
        uvicorn.Server(config).run(sockets=[listener])
    print("stm-rl: stopped; every session is saved", file=sys.stderr)


def _check_model(request: ServeRequest) -> None:
    if (request.model is None) == (request.upstream is None):
        raise StmError(
            "give either --model (a language model that answers here, such as tiny) or --upstream with "
            "--upstream-model (a server that answers)"
        )
    if (request.upstream is None) != (request.upstream_model is None):
        raise StmError("--upstream and --upstream-model go together; give the address and the name of a model there")
    if (request.model or "").startswith("openai:"):
        raise StmError("--model is a model that answers here; give a server with --upstream and --upstream-model")


def _backend(request: ServeRequest) -> Backend:
    from stm_rl.lm import load_engine
    from stm_rl_agents.serving.local import LocalModel
    from stm_rl_agents.serving.settings import checked_key, checked_url
    from stm_rl_agents.serving.upstream import Upstream

    if request.model is not None:
        return LocalModel(load_engine(request.model, request.device, request.dtype), request.max_new_tokens)
    key = checked_key(os.environ.get("STM_RL_UPSTREAM_KEY"))
    url = checked_url(request.upstream or "")
    return Upstream(url, request.upstream_model or "", key, request.upstream_timeout)
