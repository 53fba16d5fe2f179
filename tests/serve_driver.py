"""Runs servers one after another, each in a process of its own; told by lines on standard input.

``start PORT DATABASE`` forks a server and answers its process id; what takes long to import is imported once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import torch
import uvicorn  # noqa: F401  # imported once, before the forks

import stm_rl_agents.serving.app  # noqa: F401
from stm_rl.cli import serve as command
from stm_rl_agents.serving import load_serving_agent
from stm_rl_agents.serving.backends import Prompt, Written
from stm_rl_agents.serving.session import LiveSession


class Parrot:
    """Answers with what was said last, word by word."""

    name, owner = "parrot", "stm-rl"

    async def write(self, prompt: Prompt) -> AsyncIterator[str | Written]:
        text = f"You said: {prompt.window[-1][1].text}"
        for word in text.split(" "):
            yield word + " "
        yield Written(text + " ", "stop", 1, 1, 1, 1)

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return None


def serve(port: int, database: str) -> None:
    command._backend = lambda request: Parrot()  # type: ignore[assignment]
    request = command.ServeRequest(
        policy="similarity",
        model="tiny",
        upstream=None,
        upstream_model=None,
        upstream_timeout=1.0,
        token_file=None,
        slots=None,
        window=None,
        max_new_tokens=40,
        device="cpu",
        dtype="float32",
        threads=1,
        access_log=False,
    )
    limits = {"requests_per_minute": 10**6, "live_sessions": 3}
    command.run_serve(request, host="127.0.0.1", port=port, database=Path(database), **limits)


def main() -> None:
    torch.set_num_threads(1)
    agent, memory = load_serving_agent("similarity")
    LiveSession(agent, memory)  # so that its encoder is loaded before the forks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are not waited for
    print("ready", flush=True)
    for line in sys.stdin:
        _, port, database = line.split()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                serve(int(port), database)
                status = 0
            finally:
                Path(f"{database}.status").write_text(str(status))
                os._exit(status)
        print(child, flush=True)


if __name__ == "__main__":
    main()
