from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import page_of
from test_review import pair

from stm_rl.comparison import Continuation, write_continuations
from stm_rl.review import Store, Tasks
from stm_rl.review.statistics import results

pytest.importorskip("fastapi", reason="needs pip install 'stm-rl[review]'")
import httpx
import uvicorn
from fastapi.testclient import TestClient

from stm_rl.review.app import create_app

SHOWN = {"item", "kind", "speaker", "history", "window", "first", "second"}
"""All that a page gets to know of a pair."""
EVIL = "<img src=x onerror=document.title='broken'><script>document.title='broken'</script>"


def found_in(folder: Path, count: int = 6, **more: Any) -> list[Continuation]:
    found = [pair(number, **more) for number in range(count)]
    write_continuations(folder / "continuations.jsonl", found)
    return found


@contextmanager
def client_of(folder: Path, tasks: Tasks) -> Iterator[TestClient]:
    store = Store(folder / "review.sqlite")
    with TestClient(create_app(tasks, store), base_url="http://127.0.0.1") as client:
        yield client
    store.close()


@pytest.fixture
def tasks() -> Tasks:
    return Tasks([pair(number) for number in range(6)], seed=1)


@pytest.fixture
def client(tmp_path: Path, tasks: Tasks) -> Iterator[TestClient]:
    with client_of(tmp_path, tasks) as client:
        yield client


def next_of(client: TestClient, rater: str) -> Any:
    answer = client.get("/api/next", params={"rater": rater})
    assert answer.status_code == 200
    return answer.json()


def rate(client: TestClient, rater: str, item: str, choice: str = "first", **more: Any) -> Any:
    return client.post("/api/ratings", json={"rater": rater, "item": item, "choice": choice, **more})


def memory_first(shown: dict[str, Any]) -> bool:
    """Return whether the text with memory (its key is in the box) is shown first; raters can read, programs guess."""
    return "box" in shown["first"]


def test_a_rater_sees_every_pair_once_and_the_end_tells_who_was_preferred(client: TestClient, tasks: Tasks) -> None:
    seen = []
    status = next_of(client, "anna")
    while status["item"]:
        shown = status["item"]
        assert status["done"] == len(seen)
        assert (status["total"], status["end"]) == (6, None)
        seen.append(shown["item"])
        choice = "first" if memory_first(shown) == (len(seen) != 2) else "second"
        status = rate(client, "anna", shown["item"], "tie" if len(seen) == 4 else choice).json()
    assert seen == tasks.queue("anna")
    assert status["end"] == {"memory": 4, "none": 1, "ties": 1, "skipped": 0}
    assert next_of(client, "ben")["done"] == 0


def test_nothing_that_the_page_gets_tells_which_is_which(client: TestClient, tasks: Tasks, tmp_path: Path) -> None:
    firsts = []
    for number in range(20):
        rater = f"rater {number}"
        for path in ("/api/next",):
            text = client.get(path, params={"rater": rater}).text
            shown = json.loads(text)["item"]
            assert set(shown) == SHOWN
            # Nothing of what was read, decided, measured or meant is sent, nor a word for either side.
            assert not re.search(r'"(with|without|reads|decision|state|measures|agent|lm|true|truth)"|memory', text)
        firsts.append(memory_first(shown))
        again = next_of(client, rater)["item"]
        assert again == shown  # asking again tells nothing
        rated = rate(client, rater, shown["item"])
        assert "memory" not in rated.text
    assert 3 < sum(firsts) < 17
    assert not {"x-memory", "etag"} & set(rated.headers)


def test_undo_takes_back_the_last_and_returns_what_was_said(client: TestClient) -> None:
    first = next_of(client, "anna")["item"]
    second = rate(client, "anna", first["item"], aspects={"coherence": [4, 2]}, seconds=2.5).json()["item"]
    rate(client, "anna", second["item"], "skip")
    undone = client.post("/api/undo", json={"rater": "anna"}).json()
    assert (undone["item"], undone["given"], undone["done"]) == (second, {"choice": "skip", "aspects": {}}, 1)
    undone = client.post("/api/undo", json={"rater": "anna"}).json()
    assert undone["item"] == first
    assert undone["given"] == {"choice": "first", "aspects": {"coherence": [4, 2]}}
    assert client.post("/api/undo", json={"rater": "anna"}).status_code == 404
    assert rate(client, "anna", first["item"], "second").json()["done"] == 1


def test_the_same_rating_twice_is_kept_once_and_another_is_refused(client: TestClient) -> None:
    item = next_of(client, "anna")["item"]["item"]
    assert rate(client, "anna", item).json()["done"] == 1
    assert rate(client, "anna", item).json()["done"] == 1
    refused = rate(client, "anna", item, "second")
    assert refused.status_code == 409
    assert "undo" in refused.json()["error"]["message"]


def test_ratings_and_order_outlast_a_restart(tmp_path: Path, tasks: Tasks) -> None:
    with client_of(tmp_path, tasks) as client:
        first = next_of(client, "anna")["item"]
        second = rate(client, "anna", first["item"]).json()["item"]
    with client_of(tmp_path, Tasks([pair(number) for number in range(6)], seed=1)) as client:
        status = next_of(client, "anna")
        assert (status["done"], status["item"]) == (1, second)


def test_simulated_raters_at_once(tmp_path: Path) -> None:
    tasks = Tasks([pair(number) for number in range(12)])
    with client_of(tmp_path, tasks) as client:

        def work(rater: str) -> None:
            status = next_of(client, rater)
            while status["item"]:
                shown = status["item"]
                prefers_memory = rater != "cora" or "3" not in shown["first"]
                first = memory_first(shown) == prefers_memory
                marks = [5, 2] if memory_first(shown) else [2, 5]
                answer = rate(
                    client, rater, shown["item"], "first" if first else "second", aspects={"relevance": marks}
                )
                assert answer.status_code == 200
                status = answer.json()

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, ("anna", "ben", "cora")))
    store = Store(tmp_path / "review.sqlite")
    found = results(tasks.items, store.ratings())
    store.close()
    assert (found["raters"], found["ratings"]) == (3, 36)
    assert (found["wins"], found["losses"]) == (35, 1)  # cora dislikes the third
    assert found["agreement"]["relevance"]["alpha"] == 1.0
    assert found["aspects"]["relevance"]["difference"] == {"mean": 3.0, "ci95": [3.0, 3.0]}
    # One of 36 ratings differs: D_o = 2*2/(2*36), D_e = 2*35*1/(36*35).
    assert found["agreement"]["choice"]["alpha"] == pytest.approx(1 - (4 / 72) / (2 / 36), abs=1e-4)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rater": "", "item": "ITEM", "choice": "first"},
        {"rater": "<script>", "item": "ITEM", "choice": "first"},
        {"rater": "a" * 41, "item": "ITEM", "choice": "first"},
        {"rater": "anna", "item": "ITEM", "choice": "with"},
        {"rater": "anna", "item": 5, "choice": "first"},
        {"rater": "anna", "item": "ITEM", "choice": "first", "more": 1},
        {"rater": "anna", "item": "ITEM", "choice": "first", "seconds": -1},
        {"rater": "anna", "item": "ITEM", "choice": "first", "aspects": {"style": [1, 2]}},
        {"rater": "anna", "item": "ITEM", "choice": "first", "aspects": {"coherence": [0, 2]}},
        {"rater": "anna", "item": "ITEM", "choice": "first", "aspects": {"coherence": [1, 6]}},
        {"rater": "anna", "item": "ITEM", "choice": "first", "aspects": {"coherence": [1]}},
        {"rater": "anna", "item": "ITEM", "choice": "first", "aspects": {"coherence": ["1", "2"]}},
        {"rater": "anna", "item": "ITEM", "choice": "first", "aspects": {"coherence": [True, 2]}},
    ],
)
def test_malformed_ratings_change_nothing(client: TestClient, tasks: Tasks, body: dict[str, Any]) -> None:
    item = next(iter(tasks.items))
    answer = client.post("/api/ratings", json=body | ({"item": item} if body.get("item") == "ITEM" else {}))
    assert answer.status_code == 422
    assert answer.json()["error"]["message"]
    assert next_of(client, "anna")["done"] == 0


def test_what_is_not_there_is_not_found(client: TestClient) -> None:
    for path in ("/page/store.py", "/page/..%2Fstore.py", "/page/", "/openapi.json", "/docs", "/review.sqlite"):
        assert client.get(path).status_code == 404
    assert rate(client, "anna", "nothing").status_code == 404
    assert client.get("/api/next", params={"rater": "a/b"}).status_code == 422
    assert client.get("/api/next").status_code == 422
    assert client.post("/api/ratings", content=b"{").status_code == 422


def test_other_sites_and_large_bodies_are_refused(client: TestClient) -> None:
    body = {"rater": "anna"}
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.post("/api/undo", json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/api/undo", json=body, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.post("/api/undo", content=b" " * 5000).status_code == 413
    page = client.get("/")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert not re.search(r"<script>|style=|onclick", page.text)


# In a browser.


@contextmanager
def served(folder: Path, tasks: Tasks) -> Iterator[str]:
    store = Store(folder / "review.sqlite")
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(tasks, store), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()
        store.close()


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def wait_for_count(page: Any, text: str) -> None:
    page.wait_for_function("text => document.getElementById('count').textContent === text", arg=text)


def test_a_review_with_the_keyboard_alone(tmp_path: Path) -> None:
    older = [f"a: Turn {number} is about nothing." for number in range(10, 30)]
    tasks = Tasks([pair(n, before=[*older, *pair(n).before]) for n in range(3)])
    with served(tmp_path, tasks) as url, page_of() as (page, problems):
        page.goto(url)
        page.keyboard.type("anna")
        press(page, "Enter")
        wait_for_count(page, "0 of 3")
        # The history is folded; words that the question and the texts share with it are marked.
        assert not page.is_visible("#history")
        assert page.locator("#window li").all_inner_texts() == ["b: Yes.", "a: Where is the key?"]
        press(page, "h")
        assert page.locator("#history li").count() == 21
        assert {"key", "box"} <= set(page.locator("#history mark").all_inner_texts())
        press(page, "r")
        assert page.locator("#history li:visible").all_inner_texts() == ["a: The key is in the box."]
        press(page, "r", "/")
        page.keyboard.type("turn 17")
        press(page, "Enter")
        assert page.locator("#history mark").all_inner_texts() == ["Turn 17"]
        # Marks without a choice, and half of a pair of marks, are not taken.
        press(page, "5")
        assert page.locator("#save").is_disabled()
        press(page, "2", "4", "5", "3", "Enter")
        assert "consistency of both texts" in page.inner_text("#error")
        press(page, "1", "Backspace", "4", "Enter")
        wait_for_count(page, "1 of 3")
        assert not page.is_visible("#error")
        press(page, "=", "Enter")
        wait_for_count(page, "2 of 3")
        press(page, "u")
        wait_for_count(page, "1 of 3")
        assert page.get_attribute("#tie", "aria-pressed") == "true"
        press(page, "Escape", "1", "Enter")
        wait_for_count(page, "2 of 3")
        press(page, "s")
        wait_for_count(page, "3 of 3")
        assert "Thank you" in page.inner_text("#end")
        assert "Skipped: 1" in page.inner_text("#end")
        assert problems == []
    store = Store(tmp_path / "review.sqlite")
    ratings = store.ratings("anna")
    store.close()
    assert [one.choice for one in ratings] == ["second", "first", "skip"]
    assert ratings[0].aspects == {"coherence": (4, 5), "consistency": (3, 4)}
    assert ratings[0].seconds > 0


def test_texts_are_only_ever_text(tmp_path: Path) -> None:
    more = {"speaker": EVIL, "before": [EVIL, EVIL, "x: " + EVIL], "window": [EVIL, "x: " + EVIL]}
    tasks = Tasks([pair(0, with_memory=EVIL + "1", without_memory=EVIL + "2", **more)])
    with served(tmp_path, tasks) as url, page_of(width=390, height=844) as (page, problems):
        page.goto(f"{url}?rater=anna")
        wait_for_count(page, "0 of 1")
        press(page, "h")
        assert page.title() == "Review · stm-rl"
        assert page.locator("main img, main script").count() == 0
        assert EVIL in page.inner_text("#texts")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        press(page, "1", "Enter")
        wait_for_count(page, "1 of 1")
        assert problems == []


def test_a_lost_server_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    tasks = Tasks([pair(n) for n in range(2)])
    with page_of() as (page, _):
        with served(tmp_path, tasks) as url:
            page.goto(f"{url}?rater=anna")
            wait_for_count(page, "0 of 2")
        press(page, "1", "Enter")
        page.wait_for_selector("#error:not([hidden])")
        assert "cannot be reached" in page.inner_text("#error")
        assert page.locator(".card[aria-pressed=true]").count() == 1


def test_command_serves_until_it_is_stopped(tmp_path: Path) -> None:
    found = found_in(tmp_path, 3)
    # A shell that runs the tests in the background makes its children deaf to Ctrl-C.
    start = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import signal; {start}; from stm_rl.cli import main; main()"
    command = [sys.executable, "-c", code, "review", str(tmp_path), "--port", "0", "--rater", "Anna B"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(2)]
            url = said[1].split()[0]
            assert said[0].startswith("3 pairs to compare")
            assert url.endswith("/?rater=Anna%20B")
            root = url.split("?")[0]
            with httpx.Client(trust_env=False) as client:
                assert client.get(url).status_code == 200
                item = client.get(f"{root}api/next", params={"rater": "Anna B"}).json()["item"]["item"]
                assert item in {one.id for one in found}
                done = client.post(f"{root}api/ratings", json={"rater": "Anna B", "item": item, "choice": "tie"})
                assert done.json()["done"] == 1
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert "Traceback" not in errors
    store = Store(tmp_path / "review.sqlite")
    assert [one.item for one in store.ratings()] == [item]
    store.close()
