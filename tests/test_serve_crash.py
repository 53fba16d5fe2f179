"""A server that is killed at any moment has lost no turn that it answered, and kept no half of one."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx
import pytest
from serve_helpers import CHAT, user

SESSIONS = 6


class Driver:
    """Starts servers and kills them."""

    def __init__(self) -> None:
        self.database = Path()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.pid = 0
        path = os.pathsep.join(filter(None, sys.path))
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("serve_driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self._read()

    def _read(self) -> str:
        output: IO[str] | None = self.process.stdout
        assert output is not None
        line = output.readline().strip()
        assert line, "the driver ended"
        return line

    def start(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"start {self.port} {self.database}\n")
        self.process.stdin.flush()
        self.pid = int(self._read())
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/ready").status_code == 200:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        deadline = time.monotonic() + 30
        while True:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.stop(signal.SIGKILL)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def loaded() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def driver(loaded: Driver, tmp_path: Path) -> Iterator[Driver]:
    loaded.database = tmp_path / "sessions.sqlite"
    yield loaded
    loaded.end()


class Chat(threading.Thread):
    """Talks until the server is gone; the request that was under way is sent again by the next life.

    Attributes:
        answered: How many messages have been answered.
    """

    def __init__(self, address: str, number: int, answered: int) -> None:
        super().__init__()
        self.address, self.number, self.answered = address, number, answered
        self.stopping = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self.address, timeout=20) as client, contextlib.suppress(httpx.HTTPError):
            while not self.stopping.is_set():
                self._say(client)

    def _say(self, client: httpx.Client) -> None:
        stream = self.answered % 2 == 1
        body = {"model": "m", "messages": [user(message(self.number, self.answered))], "stream": stream}
        answer = client.post(CHAT, json=body, headers={"X-Session-Id": f"s{self.number}"})
        assert answer.status_code == 200, answer.text
        whole = answer.text.endswith("data: [DONE]\n\n") if stream else bool(answer.json()["memory"])
        if whole:
            self.answered += 1


def message(session: int, number: int) -> str:
    return f"Message {number} of chat {session}"


def kill_often(driver: Driver, kills: int, rng: random.Random) -> list[int]:
    """Kill the server again and again while it is used; return how many messages each session had answered."""
    answered = [0] * SESSIONS
    for _ in range(kills):
        driver.start()
        for session, count in enumerate(answered):
            check(driver.address, session, count)
        chats = [Chat(driver.address, session, count) for session, count in enumerate(answered)]
        for chat in chats:
            chat.start()
        wait_for(chats, sum(answered) + rng.randint(1, 30))
        time.sleep(rng.uniform(0, 0.02))
        driver.stop(signal.SIGKILL)
        for chat in chats:
            chat.join(30)
            assert not chat.is_alive()
        answered = [chat.answered for chat in chats]
    driver.start()
    for session, count in enumerate(answered):
        check(driver.address, session, count)
    return answered


def wait_for(chats: list[Chat], answered: int) -> None:
    """Wait until so many messages have been answered."""
    deadline = time.monotonic() + 60
    while sum(chat.answered for chat in chats) < answered:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def check(address: str, session: int, answered: int) -> None:
    """Fail unless a session holds every turn that was answered, and at most one more message with its answer."""
    found = httpx.get(f"{address}/v1/sessions/s{session}/memory")
    if found.status_code == 404:
        assert answered == 0
        return
    memory = found.json()
    count, half = divmod(memory["turns"], 2)
    assert half == 0
    assert count in (answered, answered + 1)
    said = message(session, count - 1)
    assert [line["text"].strip() for line in memory["window"]] == [said, f"You said: {said}"]
    for slot in memory["slots"]:
        if slot:
            text = message(session, slot["turn"] // 2)
            assert slot["text"].strip() == (f"You said: {text}" if slot["turn"] % 2 else text)


def test_killed_at_random_moments_no_answered_turn_is_lost(driver: Driver) -> None:
    assert sum(kill_often(driver, 5, random.Random(0))) >= 5


@pytest.mark.slow
def test_killed_fifty_times_no_answered_turn_is_lost(driver: Driver) -> None:
    assert sum(kill_often(driver, 50, random.Random(1))) >= 50


def test_told_to_stop_it_answers_what_is_under_way_and_closes_its_file(driver: Driver) -> None:
    driver.start()
    chats = [Chat(driver.address, session, 0) for session in range(SESSIONS)]
    for chat in chats:
        chat.start()
    wait_for(chats, 4 * SESSIONS)
    for chat in chats:
        chat.stopping.set()  # the request under way is the last
    driver.stop(signal.SIGTERM)
    for chat in chats:
        chat.join(30)
    assert Path(f"{driver.database}.status").read_text() == "0"
    assert not Path(f"{driver.database}-wal").exists()
    answered = [chat.answered for chat in chats]
    assert sum(answered) >= 4 * SESSIONS
    driver.start()
    for session, count in enumerate(answered):
        turns = httpx.get(f"{driver.address}/v1/sessions/s{session}/memory").json()["turns"]
        assert turns == 2 * count
