from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch
from helpers import numbered, random_actions
from hypothesis import given, settings
from hypothesis import strategies as st

from stm_rl import StmError
from stm_rl.lm import CausalLM, LanguageModel, ScoringEngine
from stm_rl.lm.echo import target_tokens
from stm_rl.lm.remote import RemoteLM
from stm_rl_envs.settings import MemorySettings
from stm_rl_envs.vector import MemoryVectorEnv

KEY = "sk-not-to-be-seen-0123456789"
LENGTH = 96
"""Tokens that the test's models read."""

WORDS = ["user:", "Anna", "kite", "harbor", "assistant:", "\n", ">", "Ünïcödé", "日本語", "🙂", "42"]
phrases = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
texts = phrases | st.text(st.characters(codec="utf-8"), max_size=12)
pairs = st.tuples(texts, texts.filter(str.strip))


class Server(ThreadingHTTPServer):
    """A server that speaks OpenAI's protocol for one model, on a free port of this machine.

    Attributes:
        faults: Answers to the next requests instead of what was asked for: status, headers and body.
        endpoints: What there is; the rest is not found.
        shows: How letters are shown that are split over tokens: ``fffd``, ``none`` or with the ``last`` token.
        single: Takes one prompt at a time.
        edit: Changes an answer.
        delay: Seconds before an answer, by the request's body.
        asked: Path, body and headers of each request.
        most: Most requests under way at once.
    """

    daemon_threads = True

    def __init__(self, lm: CausalLM) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lm = lm
        self.faults: deque[tuple[int, dict[str, str], bytes]] = deque()
        self.always: tuple[int, dict[str, str], bytes] | None = None
        self.endpoints = {"models", "completions", "chat/completions", "embeddings"}
        self.shows = "last"
        self.single = False
        self.edit: Callable[[Any], Any] = lambda answer: answer
        self.delay: Callable[[Any], float] = lambda body: 0.0
        self.asked: list[tuple[str, Any, Any]] = []
        self.most = self.under_way = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that have gone away."""

    def answer(self, path: str, body: Any) -> Any:
        if path == "models":
            return {"object": "list", "data": [{"id": "some/model", "object": "model", "max_model_len": LENGTH + 1}]}
        with self.lock:
            if path == "embeddings":
                vectors = enumerate(self.lm.embed(body["input"]).tolist())
                return {"data": [{"index": i, "embedding": vector} for i, vector in reversed(list(vectors))]}
            if path == "chat/completions":
                text = self.lm.generate([body["messages"][-1]["content"]], body["max_tokens"])[0]
                return {"choices": [{"index": 0, "message": {"role": "assistant", "content": f"\n {text} \nuser: no"}}]}
            prompts = body["prompt"]
            if isinstance(prompts, str) or isinstance(prompts[0], int):
                prompts = [prompts]
            if body.get("echo"):
                choices = [{"index": i, "logprobs": self.echo(prompt)} for i, prompt in enumerate(prompts)]
                return {"choices": choices[::-1], "usage": {"completion_tokens": len(prompts), "prompt_tokens": 1}}
            (prompt,) = prompts
            if not isinstance(prompt, str):
                prompt = self.lm.tokenizer.decode(prompt, skip_special_tokens=True)
            text = self.lm.generate([prompt], body["max_tokens"])[0]
            return {"choices": [{"index": 0, "text": f" {text}\nuser: too much"}]}

    def echo(self, prompt: str | list[int]) -> Any:
        ids = self.lm.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        with torch.no_grad():
            logits = self.lm.model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        values = [float(logits[i, token]) for i, token in enumerate(ids[1:])]
        written = int(logits[-1].argmax())
        tokens = self.shown([*ids, written])
        lengths = [len(token) for token in tokens]
        return {
            "tokens": tokens,
            "token_logprobs": [None, *values, float(logits[-1, written])],
            "text_offset": [sum(lengths[:i]) for i in range(len(lengths))],
        }

    def shown(self, ids: list[int]) -> list[str]:
        tokens = []
        waiting: list[int] = []
        for token in ids:
            text = self.lm.tokenizer.decode([token])
            if "\ufffd" not in text or self.shows == "fffd":
                tokens.append(text)
                continue
            waiting.append(token)
            text = self.lm.tokenizer.decode(waiting)
            done = "\ufffd" not in text
            tokens.append(text if done and self.shows == "last" else "")
            if done:
                waiting = []
        return tokens


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.reply(None)

    def do_POST(self) -> None:
        self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def reply(self, body: Any) -> None:
        server = self.server
        path = self.path.removeprefix("/v1/")
        with server.lock:
            server.asked.append((path, body, {name.lower(): value for name, value in self.headers.items()}))
            server.under_way += 1
            server.most = max(server.most, server.under_way)
            fault = server.faults.popleft() if server.faults else server.always
        try:
            time.sleep(server.delay(body))
            if fault:
                status, headers, content = fault
            elif path not in server.endpoints:
                status, headers, content = 404, {}, b'{"error": {"message": "not here"}}'
            elif server.single and body and isinstance(body["prompt"], list) and isinstance(body["prompt"][0], str):
                status, headers, content = 400, {}, b'{"error": {"message": "one prompt please"}}'
            else:
                status, headers = 200, {}
                content = json.dumps(server.edit(server.answer(path, body))).encode()
        finally:
            with server.lock:
                server.under_way -= 1
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(lm: CausalLM) -> Iterator[Server]:
    server = Server(lm)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def lm(rotary_folder: Path) -> CausalLM:
    return CausalLM.load(rotary_folder)


@pytest.fixture
def server(lm: CausalLM) -> Iterator[Server]:
    with serving(lm) as server:
        yield server


@pytest.fixture
def remote(server: Server) -> Iterator[RemoteLM]:
    with connect(server) as remote:
        server.asked.clear()
        yield remote


def connect(server: Server, **options: Any) -> RemoteLM:
    return RemoteLM.load(f"some/model@{server.url}", **options)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests be sent again at once, and begin without a key."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.002)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def fits(lm: CausalLM, *parts: str) -> bool:
    return len(lm.tokenizer("".join(parts))["input_ids"]) <= LENGTH


def chat(text: str, status: int = 200, **headers: str) -> tuple[int, dict[str, str], bytes]:
    return status, headers, text.encode()


# Scores.


@pytest.fixture(scope="module", params=["last", "fffd", "none"])
def shown(lm: CausalLM, request: pytest.FixtureRequest) -> Iterator[RemoteLM]:
    with serving(lm) as server:
        server.shows = request.param
        with connect(server) as remote:
            yield remote


@settings(max_examples=30)
@given(batch=st.lists(pairs, min_size=1, max_size=4))
def test_scores_are_those_of_the_model(lm: CausalLM, shown: RemoteLM, batch: list[tuple[str, str]]) -> None:
    batch = [pair for pair in batch if fits(lm, *pair)]
    contexts, targets = [context for context, _ in batch], [target for _, target in batch]
    scores = shown.score(contexts, targets)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, lm.score(contexts, targets), atol=1e-4, rtol=1e-5)


@pytest.fixture(scope="module")
def exact(lm: CausalLM, rotary_folder: Path) -> Iterator[RemoteLM]:
    with serving(lm) as server, connect(server, tokenizer=rotary_folder) as remote:
        yield remote


@settings(max_examples=30)
@given(batch=st.lists(pairs, min_size=1, max_size=4), repeat=st.integers(1, 8))
def test_with_the_tokenizer_long_contexts_are_cut_as_the_model_cuts_them(
    lm: CausalLM, exact: RemoteLM, batch: list[tuple[str, str]], repeat: int
) -> None:
    batch = [pair for pair in batch if fits(lm, pair[1])]
    contexts, targets = [context * repeat for context, _ in batch], [target for _, target in batch]
    np.testing.assert_allclose(exact.score(contexts, targets), lm.score(contexts, targets), atol=1e-4, rtol=1e-5)
    assert exact.count_tokens(contexts) == lm.count_tokens(contexts)
    assert exact.max_tokens == lm.max_tokens


def test_what_was_cut_is_counted(lm: CausalLM, exact: RemoteLM) -> None:
    before = exact.truncated
    exact.score(["kite " * 200, "kite"], [" Anna"] * 2)
    assert exact.truncated == before + 1


def test_server_that_puts_nothing_in_front_of_texts_scores_after_a_line_break(absolute_folder: Path) -> None:
    plain = CausalLM.load(absolute_folder)
    with serving(plain) as server, connect(server) as remote:
        scores = remote.score(["", "the kite", ""], ["Anna", " is here", " harbor"])
    expected = plain.score(["\n", "the kite", "\n"], ["Anna", " is here", " harbor"])
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_no_texts_ask_nothing(server: Server, remote: RemoteLM) -> None:
    assert remote.score([], []).shape == (0,)
    assert remote.generate([]) == []
    assert remote.embed([]).shape[0] == 0
    assert not server.asked


@pytest.mark.parametrize("target", ["", "  ", "\n"])
def test_targets_without_tokens_are_an_error(remote: RemoteLM, target: str) -> None:
    with pytest.raises(StmError, match="has no tokens"):
        remote.score(["a"], [target])


def test_unequal_numbers_of_texts_are_an_error(remote: RemoteLM) -> None:
    with pytest.raises(StmError, match="2 contexts and 1 targets"):
        remote.score(["a", "b"], ["c"])


def test_server_that_takes_one_text_at_a_time(lm: CausalLM, server: Server, remote: RemoteLM) -> None:
    server.single = True
    contexts, targets = ["kite"] * 20, [f" {i}" for i in range(20)]
    np.testing.assert_allclose(remote.score(contexts, targets), lm.score(contexts, targets), atol=1e-4)
    server.asked.clear()
    remote.score(contexts, targets)
    assert len(server.asked) == 20
    assert all(isinstance(body["prompt"], str) for _, body, _ in server.asked)


def without_values(answer: Any) -> Any:
    for choice in answer.get("choices", []):
        choice["logprobs"]["token_logprobs"] = [None for _ in choice["logprobs"]["tokens"]]
    return answer


def with_logprobs(logprobs: Any) -> Callable[[Any], Any]:
    return lambda answer: answer | {"choices": [choice | {"logprobs": logprobs} for choice in answer["choices"]]}


@pytest.mark.parametrize(
    "edit",
    [
        with_logprobs(None),
        with_logprobs({"content": [{"token": " x", "logprob": -1.0}]}),  # llama.cpp
        with_logprobs({"tokens": [" x"], "token_logprobs": [-1.0], "text_offset": [0]}),
        with_logprobs(
            {"tokens": ["Ġthe", "Ġkite", "x"], "token_logprobs": [None, -1.0, -1.0], "text_offset": [0, 4, 9]}
        ),
        without_values,
    ],
    ids=["none", "other form", "written token only", "other tokens", "no values"],
)
@pytest.mark.parametrize("tokenizer", [False, True])
def test_server_without_log_likelihoods_of_texts(
    server: Server, rotary_folder: Path, edit: Callable[[Any], Any], tokenizer: bool
) -> None:
    with connect(server, tokenizer=rotary_folder if tokenizer else None) as remote:
        server.edit = edit
        with pytest.raises(StmError, match=r"gave no log-likelihoods.*vLLM.*mode=generate"):
            remote.score(["the kite"], [" is here"])


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_scores_that_are_not_finite_are_an_error(server: Server, remote: RemoteLM, value: float) -> None:
    def edit(answer: Any) -> Any:
        answer["choices"][0]["logprobs"]["token_logprobs"][-2] = value  # json.dumps writes NaN and -Infinity
        return answer

    server.edit = edit
    with pytest.raises(StmError, match=r"gave the score (nan|-inf) for ' Anna'"):
        remote.score(["kite"], [" Anna"])


# Many requests.


def test_order_is_kept_and_no_more_requests_than_allowed_are_under_way(lm: CausalLM, server: Server) -> None:
    rng = np.random.default_rng(0)
    delays = iter(rng.uniform(0.01, 0.05, 1000).tolist())
    contexts, targets = [f"kite {i}" for i in range(40)], [f" harbor {i % 7}" for i in range(40)]
    expected = lm.score(contexts, targets)
    with connect(server, concurrency=3) as remote:
        server.single = True
        server.delay = lambda body: next(delays)
        np.testing.assert_allclose(remote.score(contexts, targets), expected, atol=1e-4)
        assert 2 <= server.most <= 3
        assert remote.generate(contexts[:9], 3) == lm.generate(contexts[:9], 3)
        assert server.most <= 3


def test_texts_share_requests(server: Server, remote: RemoteLM) -> None:
    remote.score(["kite"] * 300, [f" {i}" for i in range(300)])
    sizes = [len(body["prompt"]) for _, body, _ in server.asked]
    assert max(sizes) == 16
    assert sum(sizes) == 300
    server.asked.clear()
    remote.score(["kite"] * 16, [f" {i}" for i in range(16)])
    assert [len(body["prompt"]) for _, body, _ in server.asked] == [2] * 8


# Text.


def test_text_is_that_of_the_model_to_the_end_of_the_line(lm: CausalLM, server: Server, remote: RemoteLM) -> None:
    contexts = ["the kite is in", "user: where?\nassistant:"]
    assert remote.generate(contexts, 7) == lm.generate(contexts, 7)
    for _, body, _ in server.asked:
        assert (body["temperature"], body["max_tokens"], body["stop"]) == (0, 7, ["\n"])


def test_with_the_tokenizer_text_follows_the_end_of_a_context_too_long(lm: CausalLM, exact: RemoteLM) -> None:
    context = "the kite is in the cupboard\n" * 20
    assert exact.generate([context], 5) == lm.generate([context], 5)


def test_server_that_only_chats(lm: CausalLM, server: Server, remote: RemoteLM) -> None:
    server.endpoints.remove("completions")
    assert remote.generate(["the kite is in"], 5) == lm.generate(["the kite is in"], 5)
    (system, user) = server.asked[-1][1]["messages"]
    assert system["role"] == "system"
    assert user == {"role": "user", "content": "the kite is in"}
    remote.generate(["Anna"], 5)
    assert [path for path, _, _ in server.asked] == ["completions", "chat/completions", "chat/completions"]
    with pytest.raises(StmError, match="has no scores of a model 'some/model'"):
        remote.score(["a"], ["b"])


def test_too_many_new_tokens_are_an_error(remote: RemoteLM) -> None:
    for count in (0, LENGTH):
        with pytest.raises(StmError, match="expected 1 to 95"):
            remote.generate(["a"], count)


# Embeddings and lengths.


def test_embeddings_are_in_order(lm: CausalLM, remote: RemoteLM) -> None:
    contexts = [f"kite {i}" for i in range(40)]
    np.testing.assert_allclose(remote.embed(contexts), lm.embed(contexts), atol=1e-5)


def test_server_without_embeddings(server: Server, remote: RemoteLM) -> None:
    server.endpoints.remove("embeddings")
    with pytest.raises(StmError, match=r"gives no embeddings .*another encoder"):
        remote.embed(["a"])


def test_lengths(server: Server, remote: RemoteLM) -> None:
    assert isinstance(remote, LanguageModel)
    assert remote.max_tokens == LENGTH
    assert remote.count_tokens(["", "abc", "abcd", "日本"]) == [0, 1, 2, 2]
    with connect(server, max_tokens=50) as other:
        assert other.max_tokens == 50
    with RemoteLM("other/model", server.url) as other:
        assert other.max_tokens == 4096
    server.endpoints.remove("models")
    with connect(server) as other:
        assert other.max_tokens == 4096


def test_tokenizer_that_is_not_there(server: Server, tmp_path: Path) -> None:
    with pytest.raises(StmError, match="cannot load the tokenizer"):
        connect(server, tokenizer=tmp_path)


# Servers that fail.


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_busy_or_broken_servers_are_asked_again(lm: CausalLM, server: Server, remote: RemoteLM, status: int) -> None:
    server.faults.extend([chat('{"error": {"message": "busy"}}', status)] * 5)
    np.testing.assert_allclose(remote.score(["kite"], [" Anna"]), lm.score(["kite"], [" Anna"]), atol=1e-4)
    assert len(server.asked) == 6


@pytest.mark.parametrize("status", [429, 503])
def test_servers_say_how_long_to_wait(lm: CausalLM, server: Server, remote: RemoteLM, status: int) -> None:
    server.faults.append((status, {"Retry-After": "0.3"}, b"busy"))
    start = time.perf_counter()
    np.testing.assert_allclose(remote.score(["kite"], [" Anna"]), lm.score(["kite"], [" Anna"]), atol=1e-4)
    assert time.perf_counter() - start >= 0.3
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_server_that_always_fails(server: Server, remote: RemoteLM, status: int) -> None:
    server.always = chat('{"error": {"message": "no room"}}', status)
    with pytest.raises(StmError, match=rf"{server.url}.*'some/model'.*no room.*retries: 5.*--resume"):
        remote.score(["kite"], [" Anna"])
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (401, "refuses the key .*OPENAI_API_KEY"),
        (403, "refuses the key .*OPENAI_API_KEY"),
        (404, "has no scores of a model 'some/model'.*check address and name"),
        (400, r"refuses to give scores.*reason.*tokenizer="),
    ],
)
def test_what_asking_again_does_not_help(server: Server, remote: RemoteLM, status: int, match: str) -> None:
    server.always = chat('{"error": {"message": "the reason"}}', status)
    with pytest.raises(StmError, match=match):
        remote.score(["kite"], [" Anna"])
    assert len(server.asked) == 1


def test_after_an_error_no_more_requests_are_sent(server: Server, remote: RemoteLM) -> None:
    server.always = chat("{}", 401)
    server.delay = lambda body: 0.02
    with pytest.raises(StmError, match="refuses the key"):
        remote.generate(["a"] * 100)
    time.sleep(0.3)
    assert len(server.asked) < 50


def test_server_that_is_down(lm: CausalLM) -> None:
    with serving(lm) as server:
        remote = connect(server, retries=2)
    with remote, pytest.raises(StmError, match=r"127\.0\.0\.1:\d+/v1.*is down or too slow for model 'some/model'"):
        remote.score(["kite"], [" Anna"])
    with pytest.raises(StmError, match="is down or too slow"):
        connect(server, retries=2)


def test_server_that_is_slow(server: Server) -> None:
    with connect(server, timeout=0.1, retries=1) as remote:
        server.delay = lambda body: 0.5
        start = time.perf_counter()
        with pytest.raises(StmError, match=r"is down or too slow .*timed out.*retries: 1"):
            remote.score(["kite"], [" Anna"])
        assert time.perf_counter() - start < 0.5


BROKEN = [
    (200, {}, b"{not json"),
    (200, {}, b"\xff\xfe"),
    (200, {"Content-Type": "text/html"}, b"<html>hello</html>"),
    (200, {}, b"[]"),
    (200, {}, b'{"choices": null, "data": null}'),
    (200, {}, b'{"choices": [3], "data": [3]}'),
]
UNEVEN = b'{"choices": [{"index": 0, "logprobs": {"tokens": ["a"], "token_logprobs": []}}]}'


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        *[(method, fault) for method in ("score", "generate", "embed", "load") for fault in BROKEN],
        ("score", (200, {}, UNEVEN)),
        ("score", (200, {}, b'{"choices": []}')),
        ("generate", (200, {}, b'{"choices": []}')),
        ("embed", (200, {}, b'{"data": [{"embedding": "x", "index": 0}]}')),
        ("load", (200, {}, b'{"data": [{"id": "some/model", "max_model_len": "long"}]}')),
    ],
)
def test_answers_in_another_form(server: Server, remote: RemoteLM, method: str, fault: Any) -> None:
    server.always = fault
    ask: dict[str, Callable[[], Any]] = {
        "score": lambda: remote.score(["kite"], [" Anna"]),
        "generate": lambda: remote.generate(["kite"]),
        "embed": lambda: remote.embed(["kite"]),
        "load": lambda: connect(server).close(),
    }
    with pytest.raises(StmError, match="in OpenAI's form"):
        ask[method]()


def test_environments_step_until_the_server_dies(lm: CausalLM, rotary_folder: Path) -> None:
    def make(model: LanguageModel) -> MemoryVectorEnv:
        env = MemoryVectorEnv(3, [numbered(30, str(i)) for i in range(3)], settings=MemorySettings(slots=2), lm=model)
        env.reset(options={"transcripts": [0, 1, 2]})
        return env

    def steps(env: MemoryVectorEnv, count: int, seed: int) -> list[float]:
        rng = np.random.default_rng(seed)
        return [env.step(random_actions(rng, env.action_masks(), 2))[1].tolist() for _ in range(count)]

    with serving(lm) as server:
        remote = connect(server, tokenizer=rotary_folder, retries=1)
        env = make(remote)
        rewards = steps(env, 6, 0)
        np.testing.assert_allclose(rewards, steps(make(lm), 6, 0), atol=1e-4)
        assert np.any(rewards)
    with remote, pytest.raises(StmError, match=r"is down or too slow.*run the same again"):
        steps(env, 30, 1)


# The key, names and addresses.


def test_key_goes_to_the_server_and_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.DEBUG)
    with connect(server) as remote:
        remote.score(["kite"], [" Anna"])
        assert {headers["authorization"] for _, _, headers in server.asked} == {f"Bearer {KEY}"}
        said = [repr(remote), remote.id, ScoringEngine(remote).cache_key]
        for status, padding in [(401, ""), (503, ""), (400, "x" * 150)]:  # the message is cut within the last key
            server.always = chat(json.dumps({"error": {"message": f"{padding} wrong key {KEY}"}}), status)
            with pytest.raises(StmError) as caught:
                remote.generate(["kite"])
            said.append(str(caught.value))
            assert "wrong key ***" in said[-1]
    assert caplog.records
    said += [f"{record.getMessage()} {record.args}" for record in caplog.records]
    assert not [text for text in said if KEY[:12] in text]


def test_local_servers_need_no_key(server: Server, remote: RemoteLM) -> None:
    remote.score(["kite"], [" Anna"])
    assert KEY not in str(server.asked)
    assert remote.id == f"openai:some/model@127.0.0.1:{server.server_port}"


def test_address_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    with RemoteLM.load("some/model") as remote:
        assert remote.max_tokens == LENGTH


def test_openai_needs_a_key() -> None:
    with pytest.raises(StmError, match="set OPENAI_API_KEY, or name a server"):
        RemoteLM.load("some/model")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("", "expected MODEL or MODEL@"),
        ("@http://127.0.0.1/v1", "expected MODEL or MODEL@"),
        ("model@", "expected MODEL or MODEL@"),
        ("model@127.0.0.1:8000/v1", "expected one such as http://localhost"),
        ("model@http://127.0.0.1:http/v1", "is not valid"),
        ("model@http://", "expected one such as http://localhost"),
        (f"model@http://host/v1?key={KEY}", "expected one such as http://localhost"),
        (f"model@http://me:{KEY}@host/v1", "holds a user or password"),
    ],
)
def test_names_and_addresses_that_are_none(name: str, match: str) -> None:
    with pytest.raises(StmError, match=match) as caught:
        RemoteLM.load(name)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"retries": -1}, {"concurrency": 0}])
def test_numbers_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(StmError, match="expected more than 0 seconds"):
        RemoteLM("model", "http://127.0.0.1/v1", **options)


def test_servers_at_one_host_have_names_of_their_own(server: Server) -> None:
    with RemoteLM("m", server.url, max_tokens=9) as one, RemoteLM("m", server.url + "/b/v1", max_tokens=9) as other:
        assert other.id == f"{one.id}/v1/b"


def test_openai_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert openai.__name__ == "openai"
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(StmError, match=r"openai is not installed; run: pip install 'stm-rl\[remote\]'"):
        RemoteLM.load("some/model@http://127.0.0.1/v1")


# Tokens in the form that servers show them.


@pytest.mark.parametrize(
    ("tokens", "context", "target", "expected"),
    [
        (["a", " b", "c"], "a", " bc", [1, 2]),
        (["<s>", "a", " b", "x"], "a", " b", [2]),
        (["<s>", "<t>", "a", " b"], "a", " b", [3]),
        (["", "a", " b"], "a", " b", [2]),  # a special token that is not shown
        (["a", "bc"], "ab", "c", [1]),  # a token that begins in the context
        (["a", " ", "b"], "a", " b", [2]),
        (["The", "kite"], "The", " kite", [1]),  # SentencePiece: spaces in front of words are not shown
        (["a", " \ufffd", "\ufffd"], "a", " é", [1, 2]),
        (["a", "", " é", "b"], "a", " éb", [1, 2, 3]),
        (["\ufffd", "\ufffd", "a"], "é", "a", [2]),
        (["", "", "a", ""], "é", "aé", [2, 3]),
        (["a", "b"], "a", "b", [1]),
        (["a", "\ufffd"], "a", "\ufffd", [1]),  # the letter itself
    ],
)
def test_target_is_found_among_the_tokens(tokens: list[str], context: str, target: str, expected: list[int]) -> None:
    found = target_tokens(tokens, context, target)
    assert found is not None
    assert list(found) == expected


@pytest.mark.parametrize(
    "tokens",
    [[], ["a"], ["a", " c"], ["Ġa", "Ġb"], ["a", "\ufffd", "x", "y"], ["x"] * 5, ["a", "", "", "", "zzz", "y"]],
)
def test_tokens_of_another_text_are_told(tokens: list[str]) -> None:
    assert target_tokens(tokens, "a", " bcdefghijklmnopqrstuvwxyz") is None
