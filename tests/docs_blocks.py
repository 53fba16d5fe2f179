"""Runs the blocks of a documentation page one after the other, as a reader would, with smaller numbers.

Blocks of Python and bash share a folder. The commands are those of the page, but ``stm-rl`` is a stand-in that shortens
training and evaluation (:data:`SHORTER`), and ``pip install`` installs a package of the page, without a network.
A comment on the line before a block says what is different with it:

``<!-- test: skip (REASON) -->``: it is not run. ``<!-- test: slow (REASON) -->``: only with the slow tests.
``<!-- test: server (URL) -->``: it runs until the end of the page, and the next block waits until the URL answers.
``<!-- test: stopped (REASON) -->``: servers of earlier blocks are stopped before it.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

BLOCK = re.compile(r"^(?:<!-- test: (\w+) \((.*?)\) -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = ("bash", "python")
PAGE_PORT = "8080"
"""Port that pages use, the usual one of the server; another one, that is free, takes its place."""

BLOCK_SECONDS = 900.0
"""A block that takes longer hangs."""

SHORTER = {
    "train": ["--preset", "smoke", "--steps", "1024", "--eval-episodes", "2"],
    "imitate": ["--method", "bc", "--limit", "10", "--eval-episodes", "2"],
    "eval": ["--episodes", "2"],
    "label": ["--limit", "10"],
}
"""Options added to commands in tests; of an option given twice the last counts."""

STAND_IN = """#!{python}
import sys
from stm_rl.cli import main
sys.argv[2:] += {shorter}.get(sys.argv[1], [])
main()
"""
PIP = """#!/bin/sh
for last; do true; done  # the package, perhaps with extras
exec {python} -m pip install -q --no-index --no-deps --no-build-isolation --no-compile --target {site} "${{last%%\\[*}}"
"""


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, and the comment before it (mark and what stands in brackets)."""

    language: str
    code: str
    mark: str
    note: str


def blocks(page: str) -> list[Block]:
    """Return the blocks of bash and Python of a page."""
    found = [Block(language, code, mark or "", note or "") for mark, note, language, code in BLOCK.findall(page)]
    for block in found:
        assert block.mark in ("", "skip", "slow", "server", "stopped"), f"unknown comment: test: {block.mark}"
    return [block for block in found if block.language in LANGUAGES]


def run_page(page: str, folder: Path, *, slow: bool = False) -> None:
    """Run the blocks of a page in a new folder, with the slow ones or without; one that fails is an error."""
    port = str(_free_port())
    env = _environment(folder) | {"STM_RL_PORT": port}
    work = folder / "work"
    work.mkdir()
    with ExitStack() as at_end:
        for number, block in enumerate(blocks(page)):
            code = block.code.replace(PAGE_PORT, port)
            if block.mark == "skip" or (block.mark == "slow" and not slow):
                continue
            if block.mark == "stopped":
                at_end.close()
            words = ["bash", "-euo", "pipefail", "-c", code]
            if block.language == "python":
                words = [sys.executable, "-c", code]
            log = folder / f"block-{number}.log"
            with log.open("w", encoding="utf-8") as output:
                process = subprocess.Popen(
                    words, cwd=work, env=env, stdout=output, stderr=output, stdin=subprocess.DEVNULL, process_group=0
                )
            at_end.callback(_stop, process)
            if block.mark == "server":
                _wait(block.note.replace(PAGE_PORT, port), process, log)
            else:
                status = process.wait(timeout=BLOCK_SECONDS)
                assert status == 0, f"status {status} of block {number}:\n{code}\n{log.read_text(encoding='utf-8')}"


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of the blocks, with the stand-ins first on the path."""
    programs, site = folder / "bin", folder / "site"
    programs.mkdir()
    stand_in = STAND_IN.format(python=sys.executable, shorter=SHORTER)
    pip = PIP.format(python=sys.executable, site=site)
    for name, text in (("stm-rl", stand_in), ("pip", pip)):
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(stat.S_IRWXU)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return inherited | {
        "PATH": path,
        "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)]),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    """Wait until the server answers with success."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended:\n{log.read_text(encoding='utf-8')}"
        with suppress(URLError, ConnectionError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"no answer from {url} in {seconds} s:\n{log.read_text(encoding='utf-8')}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a block that still runs, and what it started, as politely as a service manager does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
