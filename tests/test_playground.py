"""The page of the server, used as a person would: in headless Chromium, against the real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from browser import browser_of, chromium, page_of

pytest.importorskip("fastapi", reason="needs the extra: pip install 'stm-rl[serve]'")

import httpx
import torch
from serve_helpers import running

from stm_rl_agents.base import Agent
from stm_rl_agents.heuristics import heuristics
from stm_rl_agents.network import PointerNetwork
from stm_rl_agents.policy import PolicyAgent
from stm_rl_agents.serving import app
from stm_rl_agents.serving.app import create_app
from stm_rl_agents.serving.backends import Prompt, Written
from stm_rl_agents.serving.settings import ServeSettings
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.view import GLOBAL_FEATURES, SLOT_FEATURES

PAGE = Path(app.__file__).parent / "page"
TOKEN = "a-token-of-this-test"
SLOTS = 6


class Teller:
    """A model that tells, word by word, what was read to it."""

    name = "teller"
    owner = "test"

    async def write(self, prompt: Prompt) -> AsyncIterator[str | Written]:
        said = prompt.window[-1][1].text
        text = f"I was read: {' | '.join(prompt.reads) or 'nothing'}."
        for piece in re.findall(r"\S+\s*", text):
            await asyncio.sleep(2 if "slowly" in said else 0)
            yield piece
        lines = [*prompt.reads, *(turn.text for _, turn in prompt.window)]
        counts = [sum(len(line.split()) for line in part) for part in (lines, [turn.text for turn in prompt.new])]
        yield Written(text, "stop", sent=counts[0], system=0, new=counts[1], answer=len(text.split()))

    async def ready(self) -> bool:
        return True

    async def close(self) -> None:
        pass


def random_policy() -> PolicyAgent:
    torch.manual_seed(0)
    network = PointerNetwork(256, len(SLOT_FEATURES), len(GLOBAL_FEATURES), reads=2, width=16)
    return PolicyAgent(network)


def keeper() -> Agent:
    """Return an agent that keeps every turn, supersedes the oldest and reads those that share words."""
    return next(agent for agent in heuristics() if agent.name == "fifo")


Open = Callable[..., AbstractContextManager[tuple[Any, list[str]]]]


@contextmanager
def serving(folder: Path, agent: Agent, **options: Any) -> Iterator[str]:
    """Run a server whose memory an agent keeps; give its address."""
    memory = MemorySettings(slots=SLOTS, window=2, reads=2)

    def make(port: int) -> Any:
        settings = ServeSettings(port=port, database=folder / "sessions.sqlite", memory=memory, **options)
        return create_app(settings, agent, Teller())

    with running(make) as address:
        yield address


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    chromium()
    with serving(tmp_path_factory.mktemp("server"), keeper()) as address:
        yield address


@pytest.fixture(scope="module")
def opened() -> Iterator[Open]:
    """Return what opens a page; all of them in one browser."""
    with browser_of() as browser:
        yield partial(page_of, browser=browser)


def go(page: Any, url: str) -> None:
    page.goto(url)
    page.wait_for_selector("body[data-ready]")


def wait_for_count(page: Any, selector: str, count: int) -> None:
    # A function, not an expression: the page may not evaluate text.
    page.wait_for_function("([all, n]) => document.querySelectorAll(all).length === n", arg=[selector, count])


def say(page: Any, *texts: str) -> None:
    for text in texts:
        before = page.locator(".turn").count()
        page.fill("#message", text)
        page.keyboard.press("Enter")
        page.wait_for_function(
            "n => document.querySelectorAll('.turn').length === n && !document.body.hasAttribute('data-busy')",
            arg=before + 2,
        )


def texts(page: Any, selector: str) -> list[str]:
    return [text.strip() for text in page.locator(selector).all_text_contents()]


def memory_of(page: Any) -> Any:
    """Return what the server says of the session that the page shows."""
    parts = page.url.partition("/#")
    return httpx.get(f"{parts[0]}/v1/sessions/{parts[2]}/memory").raise_for_status().json()


FACTS = ("The key of the shed is under the blue pot.", "Dinner on Friday is at eight.")


def test_slots_fill_are_read_and_superseded(opened: Open, server: str) -> None:
    with opened() as (page, problems):
        go(page, server)
        say(page, FACTS[0])
        assert texts(page, ".slot:not(.empty) .held > .text") == [FACTS[0], "I was read: nothing."]
        assert texts(page, ".slot.written .chip") == ["written", "written"]
        assert page.locator(".slot.empty").count() == SLOTS - 2

        say(page, FACTS[1], "Where is the key of the shed?")
        assert texts(page, ".slot.read .held > .text")[0] == FACTS[0]
        assert FACTS[0] in texts(page, ".front li")[0]
        assert FACTS[0] in texts(page, ".turn.assistant .text")[-1]
        assert "read slot" in texts(page, ".turn.user .done")[-1]

        say(page, "The key is with Tom now.")  # turns 6 and 7: the six slots are full, the oldest are superseded
        assert page.locator(".slot.superseded").count() == 2
        assert texts(page, ".slot.superseded del")[0] == FACTS[0]
        assert texts(page, ".held > .text") == [slot["text"] for slot in memory_of(page)["slots"]]
        sent, full = (int(number) for number in texts(page, ".figure dd")[:2])
        assert sent < full
        assert page.get_by_role("img", name=f"{sent} tokens sent, {full} in the full history").is_visible()

        # What was done in an earlier turn, by a click on its message; then back.
        page.locator(".turn.user .text").nth(1).click()
        assert texts(page, ".held > .text")[2:] == [FACTS[1], "I was read: nothing."]
        assert page.locator(".slot.written").count() == 2
        assert "after turn 3" in page.inner_text("#slots-used")
        page.click("#back-to-now")
        assert len(texts(page, ".held > .text")) == SLOTS
        assert not problems


def test_probabilities_are_those_of_the_policy(opened: Open, tmp_path: Path) -> None:
    with serving(tmp_path, random_policy()) as url, opened() as (page, problems):
        go(page, url)
        with page.expect_request("**/v1/chat/completions") as asked:
            say(page, "Ana lives in Porto.")
        request = asked.value  # sent again, it is answered again: what follows is what the page was told
        headers = {"X-Session-Id": request.headers["x-session-id"]}
        again = httpx.post(request.url, json=json.loads(request.post_data) | {"stream": False}, headers=headers)
        first = again.raise_for_status().json()["memory"]["operations"][0]
        write, read, _ = (page.locator(".decision").first.locator(".bars").nth(n) for n in range(3))
        for bars, shares in ((write, first["probabilities"]["write"]), (read, first["probabilities"]["read"][0])):
            told = bars.locator("li .unseen").all_text_contents()
            assert len(told) == SLOTS + 1
            for text, share in zip(told, shares, strict=True):
                shown = re.search(r"(<?)(\d+)%", text)
                assert shown is not None
                assert abs(int(shown[2]) - 100 * share) <= 1
        assert write.locator("li.chosen .name").inner_text() == (str(first["write"]) if first["write"] else "–")
        assert not problems


def test_memory_off_and_comparison(opened: Open, server: str) -> None:
    with opened() as (page, problems):
        go(page, server)
        say(page, FACTS[0], FACTS[1], "Where is the key of the shed?")
        before, sessions = memory_of(page), httpx.get(f"{server}/v1/sessions").json()
        page.get_by_role("button", name="Answer without memory, to compare").click()
        assert page.locator(".without .text").inner_text() == "I was read: nothing."
        assert memory_of(page) == before  # the session has not moved on
        assert httpx.get(f"{server}/v1/sessions").json() == sessions  # and no other has been left behind

        page.get_by_role("switch").click()
        assert page.inner_text("#memory-label") == "Memory off"
        say(page, "And where is the key of the shed?")
        assert texts(page, ".turn.assistant > .text")[-1] == "I was read: nothing."
        assert "Memory was off" in page.inner_text("#why")
        assert memory_of(page)["turns"] == 8  # it was written all the same
        say(page, "thanks", "thanks")  # the same words twice are two turns
        assert memory_of(page)["turns"] == 12
        assert not problems


def test_markup_is_shown_as_text(opened: Open, server: str) -> None:
    attack = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script> key <b>bold</b>"
    with opened() as (page, problems):
        go(page, server)
        say(page, attack, "What is <i>the</i> key?", "Which bold key?")
        assert texts(page, ".turn.user .text")[0] == attack
        assert attack in texts(page, ".held > .text")
        assert attack in texts(page, ".turn.assistant .text")[-1]  # it was read, and the model said it
        assert page.locator("main img, main script, main b, main i").count() == 0
        assert page.title() == "stm-rl playground"
        assert not problems
    for file in PAGE.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", file.read_text())


def test_reload_other_tab_forget_and_delete(opened: Open, server: str) -> None:
    with opened() as (page, problems):
        go(page, server)
        say(page, *FACTS)
        shown = texts(page, ".turn .text")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert texts(page, ".turn .text") == shown
        assert page.locator(".decision").count() == 2
        id = page.url.partition("#")[2]

        # A new session, and back by the list.
        page.get_by_role("button", name="New session").click()
        assert page.locator(".turn").count() == 0
        page.get_by_role("button", name="Sessions").click()
        page.get_by_role("button", name=re.compile(f"^{id}")).click()
        wait_for_count(page, ".turn", 4)

        page.get_by_role("button", name="Forget slot 1").click()
        wait_for_count(page, ".slot.empty", 3)
        assert memory_of(page)["slots"][0] is None
        page.get_by_role("button", name="Empty the memory").click()
        page.get_by_role("button", name="Empty", exact=True).click()
        wait_for_count(page, ".slot.empty", 6)
        assert memory_of(page)["slots"] == [None] * SLOTS

        # Where nothing was seen of it, such as another tab, the window is shown.
        page.evaluate("sessionStorage.clear()")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert texts(page, ".turn .text") == shown[-2:]
        assert "2 turns" in page.inner_text("#earlier")

        page.get_by_role("button", name="Delete this session").click()
        page.get_by_role("button", name="Cancel").click()
        assert httpx.get(f"{server}/v1/sessions/{id}/memory").status_code == 200
        page.get_by_role("button", name="Delete this session").click()
        page.get_by_role("button", name="Delete session", exact=True).click()
        wait_for_count(page, ".turn", 0)
        assert httpx.get(f"{server}/v1/sessions/{id}/memory").status_code == 404
        assert not problems


def test_errors_say_what_to_do_and_nothing_is_lost(opened: Open, server: str) -> None:
    with opened() as (page, problems):
        go(page, server)
        page.fill("#message", "x" * 40_000)
        page.keyboard.press("Enter")
        error = page.get_by_role("alert")
        error.wait_for()
        assert "40000 characters" in error.inner_text()
        assert "shorter" in error.inner_text()
        assert len(page.input_value("#message")) == 40_000

        page.fill("#message", "speak slowly")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Stop").click()
        error.wait_for()
        assert "Stopped" in error.inner_text()
        assert page.input_value("#message") == "speak slowly"

        page.route("**/v1/chat/**", lambda route: route.abort("connectionrefused"))
        page.click("#send")
        page.get_by_text("Check that stm-rl serve is running").wait_for()
        page.unroute("**/v1/chat/**")
        say(page, "Hello")
        assert error.is_hidden()
        assert memory_of(page)["turns"] == 2  # of all that only this was kept

        # Deleted by someone else, it begins again, and the page does not pretend that it knows more.
        httpx.delete(f"{server}/v1/sessions/{page.url.partition('#')[2]}").raise_for_status()
        page.fill("#message", "Is anyone there?")
        page.keyboard.press("Enter")
        wait_for_count(page, ".turn", 2)
        assert texts(page, ".turn.user .text") == ["Is anyone there?"]

        page.goto(f"{server}/#no-such-session")
        page.get_by_text("There is no session no-such-session").wait_for()
    expected = re.compile(
        r"Failed to load resource|ERR_CONNECTION_REFUSED"
    )  # how Chromium tells of 413 and of no server
    assert not [problem for problem in problems if not expected.search(problem)]


def test_token_is_asked_for_and_kept_in_the_tab(opened: Open, tmp_path: Path) -> None:
    with serving(tmp_path, keeper(), tokens=(TOKEN,)) as url, opened() as (page, problems):
        page.goto(url)
        page.get_by_label("Token", exact=True).fill("wrong-token-of-nobody")
        page.keyboard.press("Enter")
        refused = "() => document.querySelector('#token').open && !document.querySelector('#token-field').value"
        page.wait_for_function(refused)
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        assert page.inner_text("#model") == "teller"
        say(page, "Hello")
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert all("401" in problem for problem in problems)


def test_fits_every_screen(opened: Open, server: str) -> None:
    with opened(360, 780, "dark") as (page, problems):
        go(page, server)
        say(page, "x" * 300, "Where is <" + "y" * 200, "a\nb")
        for width in (360, 900, 1920):
            page.set_viewport_size({"width": width, "height": 780})
            for view in ("chat", "memory"):
                narrow = page.locator(f"[data-show={view}]").is_visible()
                assert narrow == (width == 360)
                if narrow:
                    page.click(f"[data-show={view}]")
                assert page.locator("#slots").is_visible() == (view == "memory" or not narrow)
                for part in ("html", "#scroll", "#memory"):
                    assert page.eval_on_selector(part, "e => e.scrollWidth <= e.clientWidth"), (width, part)
        page.set_viewport_size({"width": 360, "height": 780})
        page.click("[data-show=chat]")
        page.locator(".done").first.click()  # the operations of a message lead to the memory
        assert page.locator("#slots").is_visible()
        assert not problems


def test_keyboard(opened: Open, server: str) -> None:
    with opened() as (page, problems):
        go(page, server)
        page.focus("#message")
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        assert page.input_value("#message") == "one\ntwo"
        page.keyboard.press("Enter")
        page.wait_for_selector("#announce:not(:empty)", state="attached")
        assert page.inner_text("#announce") == "Answer: I was read: nothing."
        page.locator(".done").first.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.className") == "done"
        assert not problems


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_enough_to_read(scheme: int) -> None:
    schemes = re.findall(r":root \{(.*?)\}", (PAGE / "style.css").read_text(), re.DOTALL)
    colour = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", schemes[scheme]))
    backgrounds = [colour[name] for name in ("page", "card", "mine", "faint-written", "faint-read", "faint-superseded")]
    for text in ("ink", "soft", "link", "danger"):
        assert min(contrast(colour[text], behind) for behind in backgrounds) >= 4.5, text
    assert contrast(colour["on-accent"], colour["accent"]) >= 4.5
    for mark in ("control", "written", "read", "superseded", "bar", "accent"):
        assert min(contrast(colour[mark], colour[behind]) for behind in ("page", "card")) >= 3, mark
