"""``stm-rl serve`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    policy: Annotated[
        str,
        typer.Option(
            help="Keeps the memories: a run folder, or the name of a heuristic such as similarity.",
            envvar="STM_RL_POLICY",
            metavar="RUN",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="Language model that answers here: tiny (embedded), a folder or Hugging Face id of a causal model, or "
            "vllm:MODEL.",
            envvar="STM_RL_MODEL",
        ),
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(
            help="Instead of --model: base address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1. "
            "Its key, if it wants one, goes into STM_RL_UPSTREAM_KEY.",
            envvar="STM_RL_UPSTREAM",
            metavar="URL",
        ),
    ] = None,
    upstream_model: Annotated[
        str | None, typer.Option(help="Name of the model there.", envvar="STM_RL_UPSTREAM_MODEL")
    ] = None,
    upstream_timeout: Annotated[
        float,
        typer.Option(help="Seconds to wait for it to go on.", envvar="STM_RL_UPSTREAM_TIMEOUT", min=0.1),
    ] = 120.0,
    host: Annotated[
        str,
        typer.Option(help="Address to bind to; all but loopback need a token.", envvar="STM_RL_HOST"),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.", envvar="STM_RL_PORT")] = 8080,
    database: Annotated[
        Path, typer.Option(help="SQLite file of sessions; made if it is not there.", envvar="STM_RL_DATABASE")
    ] = Path("stm-rl-sessions.sqlite"),
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File of tokens that clients may show, one a line; each sees its own sessions only. A single token "
            "can be given in STM_RL_TOKEN.",
            envvar="STM_RL_TOKEN_FILE",
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Slots of the memory, instead of the policy's.", envvar="STM_RL_SLOTS", min=1)
    ] = None,
    window: Annotated[
        int | None,
        typer.Option(help="Turns seen without memory, instead of the policy's.", envvar="STM_RL_WINDOW", min=1),
    ] = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            help="Most tokens of an answer of --model, unless a request says otherwise.",
            envvar="STM_RL_MAX_NEW_TOKENS",
            min=1,
        ),
    ] = 40,
    max_request_bytes: Annotated[
        int, typer.Option(help="Most bytes of a request.", envvar="STM_RL_MAX_REQUEST_BYTES", min=1)
    ] = 2**20,
    max_characters: Annotated[
        int, typer.Option(help="Most characters of a message.", envvar="STM_RL_MAX_CHARACTERS", min=1)
    ] = 32_768,
    max_messages: Annotated[
        int, typer.Option(help="Most messages of a request.", envvar="STM_RL_MAX_MESSAGES", min=1)
    ] = 2_000,
    max_sessions: Annotated[
        int,
        typer.Option(
            help="Most sessions of a token; for one more, the least recently used is deleted.",
            envvar="STM_RL_MAX_SESSIONS",
            min=1,
        ),
    ] = 10_000,
    keep_seconds: Annotated[
        float,
        typer.Option(
            help="A session used within this time is not deleted to make room; the new one is refused instead.",
            envvar="STM_RL_KEEP_SECONDS",
            min=0,
        ),
    ] = 3600.0,
    live_sessions: Annotated[
        int,
        typer.Option(help="Sessions kept in RAM; others are read from disk.", envvar="STM_RL_LIVE_SESSIONS", min=1),
    ] = 256,
    requests_per_minute: Annotated[
        int,
        typer.Option(
            help="Most requests a minute of a token, or of an address without one.",
            envvar="STM_RL_REQUESTS_PER_MINUTE",
            min=1,
        ),
    ] = 600,
    max_concurrent: Annotated[
        int, typer.Option(help="Most chat requests under way at once.", envvar="STM_RL_MAX_CONCURRENT", min=1)
    ] = 64,
    device: Annotated[
        str, typer.Option(help="Torch device of language models: cpu, cuda, auto.", envvar="STM_RL_DEVICE")
    ] = "cpu",
    dtype: Annotated[str, typer.Option(help="Torch dtype of language models.", envvar="STM_RL_DTYPE")] = "float32",
    threads: Annotated[int, typer.Option(help="Torch threads.", envvar="STM_RL_THREADS", min=1)] = 1,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Print a line for each request.", envvar="STM_RL_ACCESS_LOG")
    ] = False,
) -> None:
    """Serve chats whose model sees a window and what a policy remembers, to any client of OpenAI's API.

    Needs `pip install 'stm-rl[serve]'`. The page to try it is at the address that is printed.

    Examples:
    `stm-rl serve --policy runs/demo --model tiny`

    `stm-rl serve --policy runs/demo --upstream http://127.0.0.1:8000/v1 --upstream-model Qwen/Qwen3-0.6B`

    `STM_RL_TOKEN=$(openssl rand -hex 24) stm-rl serve --policy similarity --model tiny --host 0.0.0.0`
    """
    from stm_rl.cli.serve import ServeRequest, run_serve

    request = ServeRequest(
        policy=policy,
        model=model,
        upstream=upstream,
        upstream_model=upstream_model,
        upstream_timeout=upstream_timeout,
        token_file=token_file,
        slots=slots,
        window=window,
        max_new_tokens=max_new_tokens,
        device=device,
        dtype=dtype,
        threads=threads,
        access_log=access_log,
    )
    run_serve(
        request,
        host=host,
        port=port,
        database=database,
        max_request_bytes=max_request_bytes,
        max_characters=max_characters,
        max_messages=max_messages,
        max_sessions=max_sessions,
        keep_seconds=keep_seconds,
        live_sessions=live_sessions,
        requests_per_minute=requests_per_minute,
        max_concurrent=max_concurrent,
    )
